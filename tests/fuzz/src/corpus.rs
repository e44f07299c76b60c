//! Inputs as files of a folder, named by what is in them.
//!
//! The idea: a corpus is kept small. Of all inputs only those stay that are the shortest to show some feature.

use std::collections::HashSet;
use std::path::Path;
use std::{fs, io};

use crate::random::mix;

/// The most files of a corpus.
pub const MAX_FILES: usize = 200;
/// The most bytes of a corpus.
pub const MAX_BYTES: usize = 1 << 20;

/// All inputs of a folder, sorted by name; none if there is no folder.
///
/// # Errors
/// A file that cannot be read.
pub fn load(folder: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        found.push((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?));
    }
    found.sort();
    Ok(found)
}

/// The name of an input's file.
#[must_use]
pub(crate) fn name(input: &[u8]) -> String {
    let hash = input.iter().fold(input.len() as u64, |hash, byte| mix(hash ^ u64::from(*byte)));
    format!("{hash:016x}")
}

/// Makes the folder hold a choice of these inputs (each with its features) and nothing else; answers how many.
///
/// # Errors
/// A file that cannot be written or removed.
pub fn save(folder: &Path, inputs: &[(Vec<u8>, Vec<u64>)]) -> io::Result<usize> {
    let chosen = choose(inputs);
    fs::create_dir_all(folder)?;
    let names: HashSet<String> = chosen.iter().map(|input| name(input)).collect();
    for (old, _) in load(folder)? {
        if !names.contains(&old) {
            fs::remove_file(folder.join(old))?;
        }
    }
    for input in &chosen {
        fs::write(folder.join(name(input)), input)?;
    }
    Ok(names.len())
}

/// The shortest inputs first, each that shows something that none before it shows.
fn choose(inputs: &[(Vec<u8>, Vec<u64>)]) -> Vec<&[u8]> {
    let mut order: Vec<_> = inputs.iter().collect();
    order.sort_by_key(|(input, _)| input.len());
    let (mut shown, mut chosen, mut bytes) = (HashSet::<u64>::new(), Vec::new(), 0);
    for (input, features) in order {
        let new = features.iter().any(|feature| !shown.contains(feature));
        if new && chosen.len() < MAX_FILES && bytes + input.len() <= MAX_BYTES {
            shown.extend(features);
            bytes += input.len();
            chosen.push(input.as_slice());
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_inputs_that_show_everything_are_kept() {
        let input = |length, features: &[u64]| (vec![length as u8; length], features.to_vec());
        let folder = std::env::temp_dir().join(format!("atoll-fuzz-corpus-{}", std::process::id()));
        let inputs = [input(9, &[1, 2]), input(3, &[1]), input(5, &[2]), input(4, &[1]), input(0, &[])];
        assert_eq!(save(&folder, &inputs).unwrap(), 2);
        let lengths = |folder: &Path| {
            let mut lengths: Vec<_> = load(folder).unwrap().iter().map(|(_, input)| input.len()).collect();
            lengths.sort_unstable();
            lengths
        };
        assert_eq!(lengths(&folder), [3, 5]);
        assert_eq!(save(&folder, &inputs[..1]).unwrap(), 1);
        assert_eq!(lengths(&folder), [9]);
        fs::remove_dir_all(&folder).unwrap();
        assert!(load(&folder).unwrap().is_empty());
    }
}
