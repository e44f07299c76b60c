//! Rules on who may depend on whom.
//!
//! The idea: `cargo metadata` becomes a small graph of plain data, and every rule is a function of that graph; a test can
//! therefore make a graph with one wrong edge.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{CargoOpt, DependencyKind, MetadataCommand};

use crate::{Error, Violation, violation};

/// A package of the dependency graph.
#[derive(Debug, Clone, Default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder relative to the repository, such as `vmm/loader`; `None` for packages that are not ours.
    pub folder: Option<String>,
    /// Packages that it needs to run, as keys of [`Graph::packages`].
    pub normal: Vec<String>,
    /// Packages that its build script or its tests need.
    pub other: Vec<String>,
}

/// All packages, ours and others', by a key that is unique (name and version).
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The packages.
    pub packages: BTreeMap<String, Package>,
}

/// Folders that crates may be in, and the folders that their crates may depend on.
pub const EDGES: &[(&str, &[&str])] = &[
    ("ipc-schema", &["ipc-schema"]),
    ("sandbox", &["sandbox"]),
    ("vmm", &["vmm", "ipc-schema", "sandbox"]),
    ("device-procs", &["device-procs", "ipc-schema", "sandbox"]),
    ("tcg-engine", &["tcg-engine", "ipc-schema", "sandbox"]),
    ("tests", &["tests", "vmm", "device-procs", "tcg-engine", "ipc-schema", "sandbox"]),
];

/// Async runtimes and the RPC system that needs one.
const ASYNC: &[&str] = &["tokio", "async-std", "smol", "async-executor", "capnp-rpc"];
/// The crates that may have them: those that serve and use the control socket.
const ASYNC_ALLOWED: &[&str] = &["vmm/supervisor", "vmm/control", "vmm/atoll"];

/// The crates of the translator; a device is not among them.
const TRANSLATOR: &[&str] =
    &["engine", "ir", "opt", "emit-x64", "code", "mem", "fp", "guest-x86", "guest-a64", "guest-s390x", "vcpu-devices"];
/// Crates of others that bring devices, which the translator must not use.
const DEVICE_CRATES: &[&str] =
    &["vm-superio", "virtio-queue", "virtio-bindings", "virtio-vsock", "vhost", "vhost-user-backend", "vfio-ioctls"];

impl Graph {
    /// Asks cargo, without network: whatever is needed to build has been fetched when a test runs.
    pub fn of_workspace(root: &Path) -> Result<Self, Error> {
        let mut command = MetadataCommand::new();
        command.manifest_path(root.join("Cargo.toml")).features(CargoOpt::AllFeatures);
        let options = ["--locked", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"];
        let metadata = command.other_options(options.map(str::to_owned)).exec()?;
        let mut graph = Graph::default();
        let nodes = metadata.resolve.map(|resolve| resolve.nodes).unwrap_or_default();
        for package in &metadata.packages {
            let mut entry = Package { name: package.name.to_string(), ..Package::default() };
            // Others' packages have a source, wherever cargo may have put them.
            if package.source.is_none() {
                let folder = package.manifest_path.parent().and_then(|folder| folder.strip_prefix(root).ok());
                entry.folder = folder.map(|folder| folder.as_str().to_owned());
            }
            for dependency in nodes.iter().filter(|node| node.id == package.id).flat_map(|node| &node.deps) {
                let normal = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
                let list = if normal { &mut entry.normal } else { &mut entry.other };
                list.push(dependency.pkg.repr.clone());
            }
            graph.packages.insert(package.id.repr.clone(), entry);
        }
        Ok(graph)
    }

    /// Our packages with their folders.
    pub fn ours(&self) -> impl Iterator<Item = (&Package, &str)> {
        self.packages.values().filter_map(|package| Some((package, package.folder.as_deref()?)))
    }

    /// The names of everything that a package needs to run.
    fn closure(&self, package: &Package) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut queue: Vec<&String> = package.normal.iter().collect();
        while let Some(key) = queue.pop() {
            if seen.insert(key)
                && let Some(next) = self.packages.get(key)
            {
                names.insert(next.name.as_str());
                queue.extend(&next.normal);
            }
        }
        names
    }
}

/// The first part of a crate's folder.
fn group(folder: &str) -> &str {
    folder.split('/').next().unwrap_or_default()
}

/// Every edge between our crates must be one of [`EDGES`], in tests and build scripts as well.
pub fn edges(graph: &Graph) -> Vec<Violation> {
    let mut found = Vec::new();
    for (package, folder) in graph.ours() {
        let Some((from, allowed)) = EDGES.iter().find(|(name, _)| *name == group(folder)) else {
            let names: Vec<_> = EDGES.iter().map(|edge| edge.0).collect();
            found.push(violation(folder, format!("crates live in {}", names.join(", "))));
            continue;
        };
        for key in package.normal.iter().chain(&package.other) {
            let Some(to) = graph.packages.get(key).and_then(|package| package.folder.as_deref()) else { continue };
            if !allowed.contains(&group(to)) {
                let problem = format!("crates of {from} may only depend on {}", allowed.join(", "));
                found.push(violation(format!("{folder} -> {to}"), problem));
            }
        }
    }
    found
}

/// A crate is named as its folder, and its folder is right below one of the six.
pub fn names(graph: &Graph) -> Vec<Violation> {
    let wrong = |(package, folder): &(&Package, &str)| {
        let (group, rest) = folder.split_once('/').unwrap_or((folder, ""));
        rest != package.name || group.is_empty()
    };
    let problem = |(package, folder): (&Package, &str)| {
        violation(folder, format!("the crate {} must be in a folder of its name below one of the six", package.name))
    };
    graph.ours().filter(wrong).map(problem).collect()
}

/// Only the crates around the control socket have an async runtime; no islet has.
pub fn async_runtimes(graph: &Graph) -> Vec<Violation> {
    let mut found = Vec::new();
    for (package, folder) in graph.ours() {
        if ASYNC_ALLOWED.contains(&folder) || group(folder) == "tests" {
            continue;
        }
        for name in graph.closure(package).into_iter().filter(|name| ASYNC.contains(name)) {
            found.push(violation(folder, format!("needs {name}, but only {} may", ASYNC_ALLOWED.join(", "))));
        }
    }
    found
}

/// The translator consists of the crates of its design and uses no crate that emulates devices.
pub fn translator(graph: &Graph) -> Vec<Violation> {
    let mut found = Vec::new();
    for (package, folder) in graph.ours().filter(|(_, folder)| group(folder) == "tcg-engine") {
        if !TRANSLATOR.contains(&package.name.as_str()) {
            found.push(violation(folder, "is not a crate of the translator's design; devices belong to device-procs"));
        }
        for name in graph.closure(package).into_iter().filter(|name| DEVICE_CRATES.contains(name)) {
            found.push(violation(folder, format!("needs {name}: devices belong to device-procs")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph of (folder or name of a foreign package, needs to run, needs to be built or tested).
    fn graph(packages: &[(&str, &[&str], &[&str])]) -> Graph {
        let keys = |list: &[&str]| list.iter().map(|key| (*key).to_owned()).collect();
        let package = |(key, normal, other): &(&str, &[&str], &[&str])| {
            let folder = key.contains('/').then(|| (*key).to_owned());
            let name = key.rsplit('/').next().unwrap().to_owned();
            ((*key).to_owned(), Package { name, folder, normal: keys(normal), other: keys(other) })
        };
        Graph { packages: packages.iter().map(package).collect() }
    }

    fn places(found: Vec<Violation>) -> Vec<String> {
        found.into_iter().map(|violation| violation.place).collect()
    }

    #[test]
    fn a_wrong_edge_is_caught_in_every_kind_of_dependency() {
        let wrong = graph(&[
            ("vmm/a", &["ipc-schema/b", "serde"], &["device-procs/c"]),
            ("ipc-schema/b", &["sandbox/d"], &[]),
            ("device-procs/c", &["tcg-engine/e"], &[]),
            ("sandbox/d", &[], &["tests/f"]),
            ("tcg-engine/e", &["ipc-schema/b", "sandbox/d"], &[]),
            ("tests/f", &["vmm/a", "device-procs/c", "tcg-engine/e"], &[]),
            ("tools/g", &[], &[]),
            ("serde", &[], &[]),
        ]);
        let expected = [
            "device-procs/c -> tcg-engine/e",
            "ipc-schema/b -> sandbox/d",
            "sandbox/d -> tests/f",
            "tools/g",
            "vmm/a -> device-procs/c",
        ];
        assert_eq!(places(edges(&wrong)), expected);
    }

    #[test]
    fn a_crate_in_the_wrong_folder_is_caught() {
        let mut wrong = graph(&[("vmm/loader", &[], &[]), ("vmm/deep/er", &[], &[]), ("tests/rig", &[], &[])]);
        wrong.packages.get_mut("tests/rig").unwrap().name = "atoll-rig".into();
        assert_eq!(places(names(&wrong)), ["tests/rig", "vmm/deep/er"]);
    }

    #[test]
    fn a_runtime_behind_two_other_crates_is_caught() {
        let wrong = graph(&[
            ("vmm/control", &["tokio"], &[]),
            ("device-procs/blk", &["x"], &[]),
            ("device-procs/net", &[], &["tokio"]),
            ("tests/rig", &["tokio"], &[]),
            ("x", &["y"], &[]),
            ("y", &["x", "tokio"], &[]),
            ("tokio", &[], &[]),
        ]);
        assert_eq!(places(async_runtimes(&wrong)), ["device-procs/blk"]);
    }

    #[test]
    fn a_device_in_the_translator_is_caught() {
        let wrong = graph(&[
            ("tcg-engine/ir", &["x"], &[]),
            ("tcg-engine/uart", &[], &[]),
            ("x", &["vm-superio"], &[]),
            ("vm-superio", &[], &[]),
        ]);
        assert_eq!(places(translator(&wrong)), ["tcg-engine/ir", "tcg-engine/uart"]);
    }
}
