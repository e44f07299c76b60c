//! Rust source as the rules look at it: without comments, without what strings say, and without test code.
//!
//! The idea: blanks take the place of what does not count, so that line numbers stay. This is a lexer of a few lines, not
//! a parser; it knows strings, raw strings, characters, lifetimes and nested comments, which is enough for looking for words.

/// The source with comments and the contents of string and character literals blanked.
pub fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !follows_word(&out) => raw_string_end(bytes, at).unwrap_or(at),
            b'\'' => character_end(bytes, at),
            _ => at,
        };
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    // Only whole literals and comments were replaced, byte by byte; what is left is as it was.
    String::from_utf8_lossy(&out).into_owned()
}

fn follows_word(out: &[u8]) -> bool {
    // A `b` may stand in front of a raw string, so a single one does not make a word.
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    match out {
        [.., before, b'b'] => word(before),
        [b'b'] => false,
        [.., last] => word(last),
        [] => false,
    }
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |len| at + len)
}

fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() {
        match bytes[end] {
            b'\\' => end += 2,
            b'"' => return end + 1,
            _ => end += 1,
        }
    }
    bytes.len()
}

/// The end of `r"…"` or `r#"…"#`, if that is what begins here.
fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    let start = at + 1 + hashes;
    if bytes.get(start) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = [b"\"".to_vec(), vec![b'#'; hashes]].concat();
    let rest = &bytes[start + 1..];
    let found = rest.windows(close.len()).position(|window| window == close);
    Some(found.map_or(bytes.len(), |len| start + 1 + len + close.len()))
}

/// The end of a character literal, or `at` where the quote begins a lifetime.
fn character_end(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at + 1) {
        Some(b'\\') => bytes[at + 3..].iter().position(|&byte| byte == b'\'').map_or(at, |len| at + 3 + len + 1),
        // A character has up to four bytes; a lifetime has no closing quote that near, or it is a character.
        Some(first) => {
            let len = match first {
                0xf0.. => 4,
                0xe0.. => 3,
                0xc0.. => 2,
                _ => 1,
            };
            if bytes.get(at + 1 + len) == Some(&b'\'') { at + len + 2 } else { at }
        }
        None => at,
    }
}

/// Blanks the modules, functions and imports under `#[cfg(test)]` and `#[test]`; `code` comes from [`code_only`].
pub fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    for mark in ["#[cfg(test)]", "#[test]"] {
        let mut from = 0;
        while let Some(start) = out[from..].find(mark).map(|at| from + at) {
            let end = item_end(&out, start + mark.len());
            let blank: String =
                out[start..end].chars().map(|character| if character == '\n' { '\n' } else { ' ' }).collect();
            from = start + blank.len();
            out.replace_range(start..end, &blank);
        }
    }
    out
}

/// The end of the item that begins at or after `from`: its closing brace, or its semicolon if that comes first.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0;
    for (at, character) in code[from..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return from + at + 1;
                }
            }
            ';' if depth == 0 => return from + at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The names of modules that exist only for tests: `#[cfg(test)] mod name;`.
pub fn test_modules(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in code.split("#[cfg(test)]").skip(1) {
        let mut words = part.split_whitespace().skip_while(|word| *word == "pub" || word.starts_with("pub("));
        if words.next() == Some("mod")
            && let Some(name) = words.next().and_then(|word| word.strip_suffix(';'))
        {
            names.push(name.to_owned());
        }
    }
    names
}

/// The identifiers of a piece of code with their line numbers, counted from 1.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(index, line)| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty())
            .map(move |word| (index + 1, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_do_not_count() {
        let source = "let a = \"unsafe \\\" unsafe\"; // unsafe\n/* unsafe /* unsafe */ unsafe */ let b = br#\"unsafe \" unsafe\"#;\nlet c = '\"'; unsafe { d::<'a>('\\'') }";
        let code = code_only(source);
        assert_eq!(code.matches("unsafe").count(), 1, "{code}");
        assert_eq!(code.lines().count(), source.lines().count());
        assert_eq!(words(&code).find(|(_, word)| *word == "unsafe"), Some((3, "unsafe")));
        assert!(code.contains("d::<'a>"), "{code}");
    }

    #[test]
    fn identifiers_that_end_in_r_are_no_raw_strings() {
        assert_eq!(code_only("for\"x\" panic").trim_end(), "for    panic");
        assert_eq!(code_only("let xr = 1; r#type").trim_end(), "let xr = 1; r#type");
    }

    #[test]
    fn test_code_is_left_out_and_nothing_else() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { {} }\n}\nfn c() {}\n#[test]\nfn d() {}\n#[cfg(test)]\nuse e;\nfn f() {}";
        let rest = without_tests(code);
        assert_eq!(rest.split_whitespace().collect::<String>(), "fna(){}fnc(){}fnf(){}");
        assert_eq!(rest.lines().count(), code.lines().count());
    }

    #[test]
    fn modules_for_tests_are_found() {
        let code = "#[cfg(test)]\nmod samples;\n#[cfg(test)]\npub(crate) mod more;\n#[cfg(test)]\nmod tests { mod inner; }\nmod real;";
        assert_eq!(test_modules(code), ["samples", "more"]);
    }
}
