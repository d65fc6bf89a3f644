//! The texts that a column of words is made of, each once: what Parquet and Arrow call a dictionary.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Codes below this have their key in a list; the others, of which only odd files have many, in a map.
const NEAR: usize = 1 << 15;
const UNKNOWN: u32 = u32::MAX;
/// More words than any column has, unless its file is made to fill the memory.
const MANY: usize = 1 << 16;

/// Texts by key, and keys by code.
#[derive(Clone, Debug, Default)]
pub struct Words {
    texts: Vec<String>,
    keys: BTreeMap<String, u32>,
    near: Vec<u32>,
    far: BTreeMap<u64, u32>,
    /// How many were known beforehand.
    known: usize,
    forgot: bool,
}

impl Words {
    /// These words, with the keys 0, 1, 2 and so on, where none is there twice.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut words = Self::default();
        texts.into_iter().for_each(|text| _ = words.key(text));
        words.known = words.texts.len();
        words
    }

    /// The words so far, by key.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether words were forgotten, so that keys no longer mean what they did.
    pub fn forgot(&self) -> bool {
        self.forgot
    }

    /// Forgets all words but those that were known beforehand, where there are too many; while no key is in use.
    pub(crate) fn relieve(&mut self) {
        if self.texts.len() <= MANY.max(self.known) {
            return;
        }
        let known = self.known as u32;
        self.texts.truncate(self.known);
        self.keys.retain(|_, key| *key < known);
        self.far.retain(|_, key| *key < known);
        self.near.iter_mut().filter(|key| **key >= known).for_each(|key| *key = UNKNOWN);
        self.forgot = true;
    }

    /// The key of a word, which is added if need be.
    pub fn key(&mut self, text: &str) -> u32 {
        if let Some(&key) = self.keys.get(text) {
            return key;
        }
        let key = self.texts.len() as u32;
        self.texts.push(text.to_owned());
        self.keys.insert(text.to_owned(), key);
        key
    }

    /// The key of the word that `text` gives to a code; it is asked once a code.
    #[inline]
    pub fn coded(&mut self, code: u64, text: impl FnOnce(u64) -> Cow<'static, str>) -> u32 {
        match self.near.get(code as usize) {
            Some(&key) if key != UNKNOWN && code < NEAR as u64 => key,
            _ => self.first(code, text),
        }
    }

    #[cold]
    fn first(&mut self, code: u64, text: impl FnOnce(u64) -> Cow<'static, str>) -> u32 {
        if code >= NEAR as u64 {
            if let Some(&key) = self.far.get(&code) {
                return key;
            }
            let key = self.key(&text(code));
            self.far.insert(code, key);
            return key;
        }
        let key = self.key(&text(code));
        let code = code as usize;
        if self.near.len() <= code {
            self.near.resize(code + 1, UNKNOWN);
        }
        self.near[code] = key;
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_words_are_forgotten_but_not_those_known_beforehand() {
        let mut words = Words::of(["a", "b"]);
        let name = |code: u64| Cow::Owned(format!("word_{code}"));
        (0..MANY as u64 - 2).for_each(|code| _ = words.coded(code * 3, name));
        words.relieve();
        assert!(!words.forgot() && words.texts().len() == MANY);
        words.coded(1 << 40, name);
        words.relieve();
        assert!(words.forgot() && words.texts() == ["a", "b"]);
        assert_eq!((words.key("b"), words.coded(3, name), words.coded(1 << 40, name)), (1, 2, 3));
        assert_eq!(words.texts()[2..], ["word_3", "word_1099511627776"]);
    }

    #[test]
    fn a_code_is_named_once_and_two_codes_of_one_name_have_one_key() {
        let mut words = Words::of(["a", "b"]);
        let name = |code: u64| if code == 7 { Cow::Borrowed("b") } else { Cow::Owned(format!("word_{code}")) };
        let check = |words: &mut Words, code, key| assert_eq!(words.coded(code, name), key, "{code}");
        check(&mut words, 7, 1);
        check(&mut words, 9, 2);
        check(&mut words, u64::MAX, 3);
        check(&mut words, 1 << 32 | 9, 4);
        for (code, key) in [(7, 1), (9, 2), (u64::MAX, 3), (1 << 32 | 9, 4)] {
            assert_eq!(words.coded(code, |_| panic!("asked again")), key);
        }
        assert_eq!(words.texts()[2..], ["word_9", "word_18446744073709551615", "word_4294967305"]);
    }
}
