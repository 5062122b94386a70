//! Where things are, and cargo itself.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};
use duct::Expression;
use serde_json::Value;

/// The target of the kernel in `testing/guest`, and of every crate that a kernel links.
pub(crate) const BARE_TARGET: &str = "riscv64gc-unknown-none-elf";
/// The oldest Rust that builds what a kernel links: `rust-version` in the workspace's manifest.
pub(crate) const MINIMUM_RUST: &str = "1.85.0";

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// A cargo command of the toolchain that runs this program, in the workspace's folder.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Expression {
    // Cargo tells its children which cargo it is.
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    duct::cmd(program, arguments).dir(root())
}

/// A cargo command of another toolchain, in the workspace's folder.
pub(crate) fn cargo_of<'a>(toolchain: &'a str, arguments: impl IntoIterator<Item = &'a str>) -> Expression {
    duct::cmd("rustup", ["run", toolchain, "cargo"].into_iter().chain(arguments)).dir(root())
}

/// A folder for images and the like, which may be deleted at any time. No other process that runs now has the same.
pub(crate) fn scratch_folder() -> Result<PathBuf> {
    /// The folder, and the lock of it, which is held until this process ends.
    static FOLDER: Mutex<Option<(PathBuf, File)>> = Mutex::new(None);
    let mut folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((folder, _)) = &*folder {
        return Ok(folder.clone());
    }
    let all = Metadata::read()?.target_folder()?.join("xtask");
    let (path, _) = folder.insert(claim_folder(&all)?);
    Ok(path.clone())
}

/// Makes, in this folder, the first of the folders 1, 2, 3 and so on that no other process has.
fn claim_folder(all: &Path) -> Result<(PathBuf, File)> {
    for number in 1_u32.. {
        let folder = all.join(number.to_string());
        fs::create_dir_all(&folder).with_context(|| format!("making the folder {}", folder.display()))?;
        let lock = folder.join("lock");
        let file = File::create(&lock).with_context(|| format!("making {}", lock.display()))?;
        match file.try_lock() {
            Ok(()) => return Ok((folder, file)),
            Err(TryLockError::WouldBlock) => (),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", lock.display()));
            }
        }
    }
    bail!("all folders in {} are in use", all.display())
}

/// Runs a command that shows its own output, and turns a failure into one message.
pub(crate) fn succeed(command: &Expression, what: &str) -> Result<()> {
    let output = command.unchecked().run().with_context(|| format!("{what}: the command could not be started"))?;
    ensure!(output.status.success(), "{what} failed ({})", output.status);
    Ok(())
}

/// What cargo knows of the workspace.
pub(crate) struct Metadata(Value);

impl Metadata {
    /// Asks cargo.
    pub(crate) fn read() -> Result<Self> {
        let json = cargo(["metadata", "--no-deps", "--format-version", "1"])
            .read()
            .context("`cargo metadata` failed: is the workspace's Cargo.toml in order?")?;
        Ok(Self(serde_json::from_str(&json).context("`cargo metadata` printed something else than JSON")?))
    }

    /// The folder that cargo builds into.
    pub(crate) fn target_folder(&self) -> Result<PathBuf> {
        let folder = self.0["target_directory"].as_str().context("`cargo metadata` names no target_directory")?;
        Ok(PathBuf::from(folder))
    }

    /// The names of the packages that a kernel links: `no_std`, and built with the oldest Rust. Everything in the
    /// workspace but this program and what is in `testing`.
    pub(crate) fn bare_packages(&self) -> Result<Vec<String>> {
        let packages = self.0["packages"].as_array().context("`cargo metadata` names no packages")?;
        let mut names = Vec::new();
        for package in packages {
            let field = |name: &str| package[name].as_str().with_context(|| format!("a package without {name}"));
            let folder = Path::new(field("manifest_path")?).parent().context("a manifest is in a folder")?;
            let inside = folder.strip_prefix(root()).unwrap_or(folder);
            if !inside.starts_with("testing") && !inside.starts_with("xtask") {
                names.push(field("name")?.to_owned());
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_process_until_that_ends() {
        let all = tempfile::tempdir().unwrap();
        // A lock belongs to an open file, so that within one process, too, the second one is refused.
        let (first, lock) = claim_folder(all.path()).unwrap();
        let (second, _other) = claim_folder(all.path()).unwrap();
        assert_ne!(first, second);
        drop(lock);
        assert_eq!(claim_folder(all.path()).unwrap().0, first);
    }
}
