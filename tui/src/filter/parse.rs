//! The filter language's text: into words, and into a tree.
//!
//! ```text
//! filter     = either { ("or" | "||") either }
//! either     = term { ("and" | "&&") term }
//! term       = ("not" | "!") term | "(" filter ")" | comparison
//! comparison = name [ ("==" | "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "&") value
//!                   | "in" value ".." ["="] value
//!                   | "in" "{" value { "," value } "}" ]
//! value      = number | word | "text in quotes"
//! ```

use core::fmt;
use core::ops::Range;

/// What is wrong with a filter, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Error {
    /// The bytes of the text that it is about; empty at the end.
    pub(crate) at: Range<usize>,
    /// What is wrong.
    pub(crate) what: String,
    /// What could stand at the end, where the text merely ends too early.
    pub(crate) expected: Option<Expected>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// What could stand at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    /// A name, `not` or `(`.
    Term,
    /// What follows a name: an operator, or `and` where the name stands alone.
    Operator,
    /// A value for the field of that name.
    Value(String),
    /// `and`, `or`, or the end.
    Connective,
}

/// Something with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct At<T> {
    /// It.
    pub(crate) of: T,
    /// Its bytes.
    pub(crate) at: Range<usize>,
}

/// How a field is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// `==`
    Equal,
    /// `!=`
    Differs,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
    /// `~`: the name contains.
    Contains,
    /// `&`: all these bits are set.
    Bits,
}

/// A value as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    /// A number.
    Number(u64),
    /// A word.
    Word(String),
    /// A text in quotes.
    Text(String),
}

/// The tree of a filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    /// Both hold.
    And(Box<Node>, Box<Node>),
    /// One holds.
    Or(Box<Node>, Box<Node>),
    /// It does not hold.
    Not(Box<Node>),
    /// A name alone: a kind, or a field that is not zero.
    Bare(At<String>),
    /// A comparison.
    Compare(At<String>, Op, At<Value>),
    /// A range; `true` includes its end.
    Within(At<String>, At<Value>, At<Value>, bool),
    /// One of a list.
    OneOf(At<String>, Vec<At<Value>>),
}

/// The deepest nesting of a filter, so that no input can exhaust the stack.
const DEPTH: usize = 64;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    Number(u64),
    Text(String),
    Sign(&'static str),
}

/// The signs, longer ones first.
const SIGNS: [&str; 20] =
    ["..=", "..", "==", "!=", "<=", ">=", "&&", "||", "=", "<", ">", "~", "&", "!", "(", ")", "{", "}", ",", "|"];

/// Whether a byte may stand in a word.
pub(crate) const fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'#')
}

fn tokens(text: &str) -> Result<Vec<At<Token>>, Error> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let wrong = |at, what: String| Error { at, what, expected: None };
        let token = match bytes[at] {
            b' ' | b'\t' => {
                at += 1;
                continue;
            }
            b'0'..=b'9' => {
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
                    at += 1;
                }
                let number = number(&text[start..at]);
                Token::Number(number.ok_or_else(|| wrong(start..at, format!("'{}' is no number", &text[start..at])))?)
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'#' => {
                while at < bytes.len() && in_word(bytes[at]) && !text[at..].starts_with("..") {
                    at += 1;
                }
                Token::Word(text[start..at].to_owned())
            }
            b'"' | b'\'' => {
                let end = text[at + 1..].find(bytes[at] as char).map(|end| at + 1 + end);
                let end = end.ok_or_else(|| wrong(start..text.len(), "the quote is not closed".into()))?;
                at = end + 1;
                Token::Text(text[start + 1..end].to_owned())
            }
            _ => match SIGNS.iter().find(|sign| text[at..].starts_with(**sign)) {
                Some(sign) => {
                    at += sign.len();
                    Token::Sign(sign)
                }
                None => {
                    let end = at + text[at..].chars().next().map_or(1, char::len_utf8);
                    return Err(wrong(start..end, format!("'{}' means nothing here", &text[start..end])));
                }
            },
        };
        found.push(At { of: token, at: start..at });
    }
    Ok(found)
}

/// A number in decimal, or in hexadecimal after `0x`; `_` may separate digits.
pub(crate) fn number(text: &str) -> Option<u64> {
    let digits = text.replace('_', "");
    match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    }
}

/// The tree of a filter's text.
pub(crate) fn parse(text: &str) -> Result<Node, Error> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, next: 0, end: text.len(), depth: 0 };
    let node = parser.either()?;
    match parser.peek() {
        None => Ok(node),
        Some(token) => {
            Err(Error { at: token.at.clone(), what: "expected 'and', 'or' or the end".into(), expected: None })
        }
    }
}

struct Parser<'a> {
    tokens: &'a [At<Token>],
    next: usize,
    end: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a At<Token>> {
        self.tokens.get(self.next)
    }

    /// Takes the next token if it is one of these words or signs.
    fn take(&mut self, any: &[&str]) -> Option<Range<usize>> {
        let token = self.peek()?;
        let taken = match &token.of {
            Token::Word(word) => any.iter().any(|known| word.eq_ignore_ascii_case(known)),
            Token::Sign(sign) => any.contains(sign),
            _ => false,
        };
        self.next += usize::from(taken);
        taken.then(|| token.at.clone())
    }

    /// The error at the next token, or at the end.
    fn wrong(&self, what: &str, expected: Expected) -> Error {
        match self.peek() {
            Some(token) => Error { at: token.at.clone(), what: format!("expected {what}"), expected: None },
            None => {
                Error { at: self.end..self.end, what: format!("expected {what} after this"), expected: Some(expected) }
            }
        }
    }

    fn either(&mut self) -> Result<Node, Error> {
        let mut node = self.both()?;
        while self.take(&["or", "||", "|"]).is_some() {
            node = Node::Or(Box::new(node), Box::new(self.both()?));
        }
        Ok(node)
    }

    fn both(&mut self) -> Result<Node, Error> {
        let mut node = self.term()?;
        while self.take(&["and", "&&"]).is_some() {
            node = Node::And(Box::new(node), Box::new(self.term()?));
        }
        Ok(node)
    }

    fn term(&mut self) -> Result<Node, Error> {
        if self.depth == DEPTH {
            return Err(self.wrong("fewer nested terms", Expected::Connective));
        }
        self.depth += 1;
        let node = self.term_inside();
        self.depth -= 1;
        node
    }

    fn term_inside(&mut self) -> Result<Node, Error> {
        if self.take(&["not", "!"]).is_some() {
            return Ok(Node::Not(Box::new(self.term()?)));
        }
        if self.take(&["("]).is_some() {
            let node = self.either()?;
            return match self.take(&[")"]) {
                Some(_) => Ok(node),
                None => Err(self.wrong("')'", Expected::Connective)),
            };
        }
        let name = match self.peek() {
            Some(At { of: Token::Word(word), at }) => At { of: word.clone(), at: at.clone() },
            _ => return Err(self.wrong("a field or a kind of event", Expected::Term)),
        };
        self.next += 1;
        self.comparison(name)
    }

    fn comparison(&mut self, name: At<String>) -> Result<Node, Error> {
        if self.take(&["in"]).is_some() {
            if self.take(&["{", "("]).is_some() {
                let mut list = vec![self.value(&name)?];
                while self.take(&[","]).is_some() {
                    list.push(self.value(&name)?);
                }
                return match self.take(&["}", ")"]) {
                    Some(_) => Ok(Node::OneOf(name, list)),
                    None => Err(self.wrong("',' or '}'", Expected::Connective)),
                };
            }
            let from = self.value(&name)?;
            let inclusive = self.take(&["..="]).is_some();
            if !inclusive && self.take(&[".."]).is_none() {
                return Err(self.wrong("'..' and the end of the range", Expected::Operator));
            }
            let to = self.value(&name)?;
            return Ok(Node::Within(name, from, to, inclusive));
        }
        let op = match self.peek() {
            Some(At { of: Token::Sign(sign), .. }) => match *sign {
                "==" | "=" => Op::Equal,
                "!=" => Op::Differs,
                "<" => Op::Less,
                "<=" => Op::AtMost,
                ">" => Op::More,
                ">=" => Op::AtLeast,
                "~" => Op::Contains,
                "&" => Op::Bits,
                _ => return Ok(Node::Bare(name)),
            },
            _ => return Ok(Node::Bare(name)),
        };
        self.next += 1;
        let value = self.value(&name)?;
        Ok(Node::Compare(name, op, value))
    }

    fn value(&mut self, name: &At<String>) -> Result<At<Value>, Error> {
        let Some(token) = self.peek() else {
            return Err(self.wrong(&format!("a value for '{}'", name.of), Expected::Value(name.of.clone())));
        };
        let value = match &token.of {
            Token::Number(number) => Value::Number(*number),
            Token::Word(word) => Value::Word(word.clone()),
            Token::Text(text) => Value::Text(text.clone()),
            Token::Sign(_) => {
                return Err(self.wrong(&format!("a value for '{}'", name.of), Expected::Value(name.of.clone())));
            }
        };
        self.next += 1;
        Ok(At { of: value, at: token.at.clone() })
    }
}
