//! Rust source as a list of tokens: enough to follow paths and to leave out tests.

/// Splits `source` into identifiers, `::` and single characters. Comments and white space are left
/// out; every literal becomes the token `""`, lifetimes become `'`.
pub(crate) fn tokens(source: &str) -> Vec<String> {
    let mut lexer = Lexer { rest: source.chars().collect(), at: 0, found: vec![] };
    while lexer.step() {}
    lexer.found
}

struct Lexer {
    rest: Vec<char>,
    at: usize,
    found: Vec<String>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.rest.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn step(&mut self) -> bool {
        if self.at >= self.rest.len() {
            return false;
        }
        match (self.peek(0), self.peek(1)) {
            ('/', '/') => self.skip_while(|character| character != '\n'),
            ('/', '*') => self.block_comment(),
            ('"', _) => self.string(),
            ('\'', _) => self.quote(),
            (':', ':') => {
                self.at += 2;
                self.found.push("::".to_owned());
            }
            (first, _) if is_word(first) => self.word(),
            (first, _) if first.is_whitespace() => self.at += 1,
            (first, _) => {
                self.at += 1;
                self.found.push(first.to_string());
            }
        }
        true
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.at < self.rest.len() && wanted(self.peek(0)) {
            self.at += 1;
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.rest.len() {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            self.at += 2;
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.at += 1;
        while self.at < self.rest.len() && self.peek(0) != '"' {
            self.at += if self.peek(0) == '\\' { 2 } else { 1 };
        }
        self.at += 1;
        self.literal();
    }

    /// A character or a lifetime: `'a'` closes after one character or an escape, `'a` does not.
    fn quote(&mut self) {
        if self.peek(1) == '\\' {
            self.at += 3;
            self.skip_while(|character| character != '\'');
            self.at += 1;
            self.literal();
        } else if self.peek(2) == '\'' {
            self.at += 3;
            self.literal();
        } else {
            self.at += 1;
            self.skip_while(is_word);
            self.found.push("'".to_owned());
        }
    }

    fn word(&mut self) {
        let start = self.at;
        self.skip_while(is_word);
        let word: String = self.rest[start..self.at].iter().collect();
        let hashes = (0..).take_while(|ahead| self.peek(*ahead) == '#').count();
        match word.as_str() {
            "r" | "br" | "cr" if self.peek(hashes) == '"' => self.raw_string(hashes),
            "b" | "c" if self.peek(0) == '"' => self.string(),
            "b" if self.peek(0) == '\'' => self.quote(),
            // A raw identifier: `r#type`.
            "r" if hashes == 1 => self.at += 1,
            _ => self.found.push(word),
        }
    }

    fn raw_string(&mut self, hashes: usize) {
        self.at += hashes + 1;
        while self.at < self.rest.len() {
            self.at += 1;
            let closed =
                self.rest[self.at - 1] == '"' && (0..hashes).all(|ahead| self.peek(ahead) == '#');
            if closed {
                self.at += hashes;
                break;
            }
        }
        self.literal();
    }

    fn literal(&mut self) {
        self.found.push("\"\"".to_owned());
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// `tokens` without the items that exist only in tests, and the names of the modules among those.
pub(crate) fn without_tests(tokens: &[String]) -> (Vec<String>, Vec<String>) {
    let mut kept = vec![];
    let mut test_modules = vec![];
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "#" && tokens.get(at + 1).is_some_and(|next| next == "[") {
            let end = group_end(tokens, at + 1);
            if is_test_only(&tokens[at + 2..end.saturating_sub(1).max(at + 2)]) {
                let item = end;
                at = item_end(tokens, item);
                if let Some(position) = tokens[item..at].iter().position(|token| token == "mod") {
                    test_modules.extend(tokens.get(item + position + 1).cloned());
                }
                continue;
            }
            kept.extend_from_slice(&tokens[at..end]);
            at = end;
            continue;
        }
        kept.push(tokens[at].clone());
        at += 1;
    }
    (kept, test_modules)
}

fn is_test_only(attribute: &[String]) -> bool {
    attribute.first().is_some_and(|name| name == "cfg")
        && attribute.iter().any(|token| token == "test")
        && !attribute.iter().any(|token| token == "not")
}

/// Position after the group that opens at `start`.
fn group_end(tokens: &[String], start: usize) -> usize {
    let mut depth = 0_i32;
    for (offset, token) in tokens[start..].iter().enumerate() {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return start + offset + 1;
        }
    }
    tokens.len()
}

/// Position after the item that starts at `start`: behind its braces, or its semicolon.
fn item_end(tokens: &[String], start: usize) -> usize {
    let mut at = start;
    while at < tokens.len() {
        match tokens[at].as_str() {
            ";" => return at + 1,
            "{" => return group_end(tokens, at),
            "(" | "[" => at = group_end(tokens, at),
            _ => at += 1,
        }
    }
    at
}

#[test]
fn literals_and_comments_hide_what_they_hold() {
    let source = r####"
        // crate::a
        /* crate::b /* crate::c */ */
        let x = ("crate::d", 'e', '\'', b'"', r#"crate::"f"#, &'a str, r#type);
        crate::g::H
    "####;
    let words: Vec<String> =
        tokens(source).into_iter().filter(|token| token.chars().all(is_word)).collect();
    assert_eq!(words, ["let", "x", "str", "type", "crate", "g", "H"]);
}

#[test]
fn test_items_are_left_out() {
    let source = "use a::b; #[cfg(test)] mod tests { fn f() { c() } } #[cfg(all(test, x))] \
                  #[path = \"y\"] mod more; #[cfg(not(test))] fn g() {} #[cfg(test)] use d::e;";
    let (kept, modules) = without_tests(&tokens(source));
    assert_eq!(modules, ["tests", "more"]);
    assert!(kept.iter().any(|token| token == "g"));
    assert!(!kept.iter().any(|token| ["c", "d", "more"].contains(&token.as_str())));
}
