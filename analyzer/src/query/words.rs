//! The words of a query: which columns it may mean, and where a wrong one stands.

use crate::schema::{self, Table};
use crate::{Error, Tables};
use sqlparser::dialect::GenericDialect;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

/// A query's words and places.
pub(super) struct Words {
    words: Vec<(String, Place)>,
    /// Whether it may mean all columns.
    pub(super) all: bool,
    /// Whether it gives names to parts of itself.
    pub(super) has_with: bool,
    /// Behind its last word.
    end: Place,
}

/// Line and column, from 1.
type Place = (u64, u64);

impl Words {
    /// The words of a query; of one that cannot be read, none.
    pub(super) fn of(sql: &str) -> Self {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap_or_default();
        let tokens: Vec<&TokenWithSpan> =
            tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
        let keyword = |at: usize, wanted: Keyword| matches!(&tokens.get(at).map(|token| &token.token), Some(Token::Word(word)) if word.keyword == wanted);
        let any = |wanted: Keyword| (0..tokens.len()).any(|at| keyword(at, wanted));
        // A star that is no factor stands for all columns, but where rows are counted.
        let star = |at: usize| {
            let before = at.checked_sub(1).map(|before| &tokens[before].token);
            let factor = match before {
                // Columns may be called as keywords are.
                Some(Token::Word(word)) => !matches!(word.keyword, Keyword::SELECT | Keyword::DISTINCT | Keyword::ALL),
                Some(Token::Number(..) | Token::RParen | Token::RBracket | Token::SingleQuotedString(_)) => true,
                _ => false,
            };
            let counted = before == Some(&Token::LParen) && at >= 2 && keyword(at - 2, Keyword::COUNT);
            !factor && !counted
        };
        let stars = (0..tokens.len()).any(|at| tokens[at].token == Token::Mul && star(at));
        let all =
            stars || !any(Keyword::SELECT) || [Keyword::NATURAL, Keyword::TABLE, Keyword::COLUMNS].into_iter().any(any);
        let words = tokens.iter().filter_map(|token| match &token.token {
            Token::Word(word) => Some((word.value.clone(), (token.span.start.line, token.span.start.column))),
            _ => None,
        });
        let end = sql.trim_end().lines().enumerate().last();
        let end = end.map_or((1, 1), |(line, text)| (line as u64 + 1, text.chars().count() as u64 + 1));
        Self { words: words.collect(), all, has_with: any(Keyword::WITH), end }
    }

    /// Whether a word of the query is this one.
    pub(super) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|(known, _)| known == word)
    }

    fn place(&self, word: &str) -> Option<Place> {
        self.words.iter().find(|(known, _)| known == word).map(|(_, place)| *place)
    }

    /// An error of a query that is not understood, with its place where it ends too early.
    pub(super) fn unread(&self, error: Error) -> Error {
        match error {
            Error::Query { why, place: None } if why.ends_with("found: EOF") => {
                let why = why.replace("found: EOF", "found the end");
                Error::Query { why, place: Some(self.end) }
            }
            error => error,
        }
    }

    /// The error of a table that there is none of.
    pub(super) fn no_table(&self, name: &str) -> Error {
        let names = schema::TABLES.iter().map(|table| table.name);
        Error::NoTable { table: name.into(), near: nearest(name, names), place: self.place(name) }
    }

    /// What polars finds wrong, said with what is known of the tables.
    pub(super) fn explain(&self, tables: &Tables, named: &[&'static Table], error: Error) -> Error {
        let Error::Query { why, place: None } = &error else { return error };
        // Of a column with a table's name before it polars speaks in other words.
        let quote = if why.contains("find column") { '"' } else { '\'' };
        let known = ["find column", "no column named"].iter().any(|words| why.contains(words));
        let Some(name) = why.split(quote).nth(1).filter(|_| known) else { return error };
        let columns: Vec<&'static str> =
            named.iter().flat_map(|table| tables.columns(table)).map(|column| column.name).collect();
        if columns.contains(&name) {
            return error;
        }
        let of = schema::TABLES
            .iter()
            .filter(|table| !named.iter().any(|known| known.name == table.name))
            .filter(|table| table.columns().iter().any(|column| column.name == name))
            .map(|table| table.name);
        Error::NoColumn {
            column: name.into(),
            near: nearest(name, columns.iter().copied()),
            elsewhere: of.collect(),
            columns: named
                .iter()
                .map(|table| {
                    let names: Vec<&str> = tables.columns(table).iter().map(|column| column.name).collect();
                    format!("{} has {}", table.name, names.join(", "))
                })
                .collect::<Vec<_>>()
                .join("; "),
            place: self.place(name),
        }
    }
}

/// The name that is most like a wrong one, if any is.
fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_ascii_lowercase();
    let near = |name: &str| {
        let most = (wrong.len().max(name.len())) / 3;
        let apart = distance(&wrong, name);
        // One that begins as the other is meant, however much shorter it is.
        let begins = wrong.len() >= 3 && (name.starts_with(&wrong) || wrong.starts_with(name));
        (apart <= most.max(1) || begins).then_some(apart)
    };
    names.filter_map(|name| near(name).map(|apart| (apart, name))).min().map(|(_, name)| name)
}

/// How many letters must be put in, left out, changed or swapped with the next to make one word of another.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_words() {
        let check = |sql: &str, all: bool| assert_eq!(Words::of(sql).all, all, "{sql}");
        check("SELECT COUNT(*) FROM exits", false);
        check("SELECT count ( * ) FROM exits", false);
        check("SELECT event * 2, 3 * event FROM exits", false);
        check("SELECT \"event\" * 2 FROM exits", false);
        check("SELECT * FROM exits", true);
        check("SELECT e.* FROM exits AS e", true);
        check("SELECT COUNT(*) FROM (SELECT DISTINCT * FROM exits)", true);
        check("FROM exits", true);
        check("SELECT 1 FROM exits NATURAL JOIN entries", true);
        let words = Words::of("SELECT event,\n  rip FROM exits");
        assert_eq!(words.place("rip"), Some((2, 3)));
        assert!(words.has("event") && !words.has("gpa"));
    }

    #[test]
    fn names_that_are_meant() {
        let names = ["exits", "entries", "vmcs", "flushes", "reason", "reason_code", "rip"];
        let check = |wrong: &str, meant: Option<&str>| assert_eq!(nearest(wrong, names.into_iter()), meant, "{wrong}");
        check("exit", Some("exits"));
        check("EXITS", Some("exits"));
        check("flushs", Some("flushes"));
        check("resaon", Some("reason"));
        check("reason_cod", Some("reason_code"));
        check("rpi", Some("rip"));
        check("nonesuch", None);
    }
}
