//! Text from a guest, made fit for a terminal and for a log.
//!
//! Without this an agent could move the cursor, change the terminal's title, forge lines of a log,
//! or write text that reads backwards.

use std::borrow::Cow;

/// Bytes of an error message that are kept.
pub const MAX_MESSAGE: usize = 4096;

/// Bytes of an id or of a kernel's release that are kept. Ids are chosen by the host and are
/// shorter, so a cut id is one that the host does not know.
pub const MAX_NAME: usize = 256;

/// `text` in at most `limit` bytes (and an ellipsis), with everything escaped that a terminal
/// could take for a command.
#[must_use]
pub fn printable(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit && !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len().min(limit));
    for character in text.chars() {
        let before = clean.len();
        if is_unsafe(character) {
            clean.extend(character.escape_default());
        } else {
            clean.push(character);
        }
        if clean.len() > limit {
            clean.truncate(before);
            clean.push('…');
            break;
        }
    }
    Cow::Owned(clean)
}

/// [`printable`] in place.
pub(crate) fn clean(text: &mut String, limit: usize) {
    if let Cow::Owned(clean) = printable(text, limit) {
        *text = clean;
    }
}

/// Control characters, line and paragraph separators, marks without width and those that change
/// the direction of writing (Unicode Standard Annex 9).
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn keeps_ordinary_text() {
        assert_eq!(printable("mount /données: no such file", 100), "mount /données: no such file");
    }

    #[test]
    fn escapes_what_moves_a_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc\u{9b}", 100), "a\\u{1b}[2Jb\\r\\nc\\u{9b}");
        assert_eq!(printable("\u{202e}txt.exe", 100), "\\u{202e}txt.exe");
    }

    #[test]
    fn cuts_at_the_limit_between_characters() {
        assert_eq!(printable("ééé", 5), "éé…");
        assert_eq!(printable("\n\n\n", 5), "\\n\\n…");
        assert_eq!(printable(&"x".repeat(10_000), 4).len(), 4 + '…'.len_utf8());
    }
}
