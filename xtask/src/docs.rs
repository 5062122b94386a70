//! The documentation, held against the code: tables without a gap, and links that lead somewhere.

use std::{fs, path::Path};

use virtio_spec::{
    Features,
    bitflags::Flags,
    block::{BlockFeatures, RequestStatus, RequestType},
};

use crate::workspace;

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// The links of a text to files, without the part of the file: text and target.
fn links(text: &str) -> Vec<(&str, &str)> {
    let ends = text.match_indices("](");
    let links = ends.filter_map(|(end, _)| {
        let label = &text[text[..end].rfind('[')? + 1..end];
        let target = text[end + 2..].split(')').next()?.split('#').next()?;
        (!target.is_empty() && !target.contains(':')).then_some((label, target))
    });
    links.collect()
}

/// Rows begin with the number of a bit or value, and its name.
fn row(number: u64, name: &str) -> String {
    format!("| {number} | {name} |")
}

fn bits<F: Flags<Bits = u64>>() -> impl Iterator<Item = String> {
    F::FLAGS.iter().map(|flag| row(flag.value().bits().trailing_zeros().into(), flag.name()))
}

#[test]
fn every_feature_request_and_status_has_a_row() {
    let table = read(&workspace::root().join("docs/features.md"));
    let requests = RequestType::NAMED.iter().map(|(name, value)| row(value.0.into(), name));
    let statuses = RequestStatus::NAMED.iter().map(|(name, value)| row(value.0.into(), name));
    let rows = bits::<BlockFeatures>().chain(bits::<Features>()).chain(requests).chain(statuses);
    let missing: Vec<_> = rows.filter(|row| !table.contains(row)).collect();
    assert!(missing.is_empty(), "docs/features.md lacks rows that begin with {missing:?}");
}

#[test]
fn every_test_of_the_tables_is_where_they_say() {
    let folder = workspace::root().join("docs");
    let table = read(&folder.join("features.md"));
    let named: Vec<_> = links(&table).into_iter().filter(|(name, _)| !name.starts_with('`')).collect();
    let tests: Vec<_> = named.into_iter().filter(|(_, file)| file.ends_with(".rs")).collect();
    assert!(tests.len() > 100, "{} tests", tests.len());
    for (name, file) in tests {
        let source = read(&folder.join(file));
        let is_there = [format!("fn {name}("), format!("fn {name}<"), format!("\"{name}\"")];
        assert!(is_there.iter().any(|text| source.contains(text)), "docs/features.md: {file} has no {name}");
    }
}

#[test]
fn links_lead_somewhere() {
    let root = workspace::root();
    let guides = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    for file in guides.chain([root.join("README.md"), root.join("CHANGELOG.md")]) {
        let text = read(&file);
        let lost = links(&text).into_iter().find(|(_, target)| !file.parent().unwrap().join(target).exists());
        assert_eq!(lost, None, "in {}", file.display());
    }
}
