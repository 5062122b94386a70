//! QMP: telling a running QEMU what to do, by JSON over a socket.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// The arguments by which QEMU listens there.
    pub(crate) fn arguments(socket: &Path) -> [String; 2] {
        ["-qmp".into(), format!("unix:{},server=on,wait=off", socket.display())]
    }

    /// Connects to a QEMU whose guest runs: by then it listens.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("connecting to QEMU's control socket")?;
        stream.set_read_timeout(Some(PATIENCE)).context("setting a deadline")?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        // It greets first, and wants to be told that its capabilities are fine.
        qmp.receive()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Lets QEMU execute a command, and returns its answer.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}").with_context(|| format!("telling QEMU to {command}"))?;
        loop {
            let mut answer = self.receive().with_context(|| format!("QEMU's answer to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            if let Some(answer) = answer.get_mut("return") {
                return Ok(answer.take());
            }
            // An event, which may come at any time.
        }
    }

    /// Whether the one disk writes back, and does not write through.
    pub(crate) fn writes_back(&mut self) -> Result<bool> {
        let answer = self.execute("query-block", json!({}))?;
        let writes_back = answer.pointer("/0/inserted/cache/writeback").and_then(Value::as_bool);
        writes_back.with_context(|| format!("query-block names no cache mode: {answer}"))
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("reading from QEMU's control socket")?;
        serde_json::from_str(&line).with_context(|| format!("QEMU said something else than JSON: {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    #[test]
    fn events_are_skipped_and_errors_told() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        let qemu = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let answers = [
                r#"{"QMP":{}}"#,
                r#"{"return":{}}"#,
                "{\"event\":\"RTC_CHANGE\"}\n{\"return\":7}",
                r#"{"error":{"desc":"no such disk"}}"#,
            ];
            writeln!(stream, "{}", answers[0]).unwrap();
            let mut requests = BufReader::new(stream.try_clone().unwrap());
            for answer in &answers[1..] {
                requests.read_line(&mut String::new()).unwrap();
                writeln!(stream, "{answer}").unwrap();
            }
        });
        let mut qmp = Qmp::connect(&socket).unwrap();
        assert_eq!(qmp.execute("query-something", json!({})).unwrap(), json!(7));
        let error = qmp.execute("block_resize", json!({})).unwrap_err();
        assert!(error.to_string().contains("no such disk"), "{error}");
        qemu.join().unwrap();
    }
}
