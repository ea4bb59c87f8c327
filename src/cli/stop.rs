//! Stop texts in a stream: what could be the beginning of one is held back.

/// Looks for stop texts in a text that comes in pieces.
pub(super) struct Stops {
    texts: Vec<String>,
    held: String,
}

impl Stops {
    /// Looks for these, none of which is empty.
    pub(super) fn new(texts: Vec<String>) -> Stops {
        Stops { texts, held: String::new() }
    }

    /// Takes a piece; gives what may be shown, and true when a stop text has come. That one and
    /// what is behind it are dropped.
    pub(super) fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if let Some(at) = self.texts.iter().filter_map(|t| self.held.find(t)).min() {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return (text, true);
        }
        let from = self.held.char_indices().map(|(at, _)| at).find(|at| {
            let tail = &self.held[*at..];
            self.texts.iter().any(|t| t.starts_with(tail))
        });
        let rest = self.held.split_off(from.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is left when nothing more comes.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut s = Stops::new(stops.iter().map(|t| (*t).to_owned()).collect());
        let mut out = Vec::new();
        for p in pieces {
            let (text, stop) = s.push(p);
            out.push(text);
            if stop {
                return (out, true);
            }
        }
        out.push(s.finish());
        (out, false)
    }

    #[test]
    fn without_stop_texts_everything_passes_at_once() {
        assert_eq!(run(&[], &["a", "é"]), (vec!["a".into(), "é".into(), String::new()], false));
    }

    #[test]
    fn a_stop_text_over_several_pieces_is_never_shown() {
        assert_eq!(
            run(&["END"], &["x E", "N", "D y"]),
            (vec!["x ".into(), String::new(), String::new()], true)
        );
        // The beginning of one that comes to nothing is shown after all.
        assert_eq!(
            run(&["END"], &["x E", "N", "x"]),
            (vec!["x ".into(), String::new(), "ENx".into(), "".into()], false)
        );
        assert_eq!(run(&["END"], &["E", "N"]), (vec![String::new(), String::new(), "EN".into()], false));
        assert_eq!(run(&["aab"], &["aa", "ab"]), (vec![String::new(), "a".into()], true));
    }

    #[test]
    fn the_first_place_counts_not_the_first_text() {
        assert_eq!(run(&["b", "a"], &["xayb"]), (vec!["x".into()], true));
        assert_eq!(run(&["é"], &["caf", "é!"]), (vec!["caf".into(), String::new()], true));
    }
}
