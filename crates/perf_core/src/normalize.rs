//! Takes the literals out of SQL text: every string, bit string, dollar-quoted and numeric literal becomes `$n`, all
//! else stays as it was written. A lexer is enough and needs no parse tree, so a statement can be normalised at any
//! time, whoever parsed it: when it is recorded, when it failed, or in another session.
//!
//! Bytes are looked at one by one. That is safe in every server encoding: in all of them the bytes of a multibyte
//! character have the high bit set.

use core::ops::Range;

pub mod literals;

/// Normalises `source` into `out` and returns the number of bytes written; what does not fit is cut, at any byte.
/// `backslash_escapes` says that plain strings may have them (standard_conforming_strings is off).
pub fn normalize_into(source: &[u8], out: &mut [u8], backslash_escapes: bool) -> usize {
    let source = beginning(source.trim_ascii());
    let mut writer = Writer { out, len: 0 };
    let mut number = highest_parameter(source);
    // What stays is copied in one piece, up to the next byte to be left out.
    let mut copied = 0;
    let all = each_literal(source, backslash_escapes, |literal| {
        writer.push(&source[copied..literal.start]);
        copied = literal.end;
        number = number.saturating_add(1);
        writer.parameter(number);
        writer.len < writer.out.len()
    });
    if all {
        writer.push(&source[copied..]);
    }
    writer.len
}

/// Shows `each` where every literal is, its sign included, until it says no; whether it never did.
#[inline]
fn each_literal(source: &[u8], backslash_escapes: bool, mut each: impl FnMut(Range<usize>) -> bool) -> bool {
    let mut lexer = Lexer { source, at: 0, backslash_escapes };
    let mut before = Before::Operator;
    let mut sign = None;
    while let Some(stop) = lexer.skip_ordinary(&mut before) {
        match lexer.next() {
            Some(Token::Literal) => {
                if !each(sign.take().unwrap_or(stop)..lexer.at) {
                    return false;
                }
                before = Before::Operand;
            }
            Some(Token::Minus) => {
                // A sign belongs to the literal when nothing stands before it that could be subtracted from.
                if before == Before::Operator && lexer.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                    sign = Some(stop);
                } else {
                    before = Before::Operator;
                }
            }
            Some(Token::Space) => {}
            Some(Token::Operand(_)) => before = Before::Operand,
            Some(Token::Other) => before = Before::Operator,
            None => break,
        }
    }
    true
}

/// Of a longer text only so much is read: normalising goes on under a lock.
const LONGEST_READ: usize = 1 << 20;

/// The part of a text that is read, with its last character whole.
fn beginning(source: &[u8]) -> &[u8] {
    if source.len() <= LONGEST_READ {
        return source;
    }
    let end = source[..LONGEST_READ].iter().rposition(u8::is_ascii).map_or(0, |last| last + 1);
    &source[..end]
}

/// [`normalize_into`] for text that may grow.
pub fn normalize_bytes(source: &[u8], backslash_escapes: bool) -> Vec<u8> {
    // A literal has at least one byte; its parameter's number has at most eight digits and a dollar sign.
    let mut out = vec![0; source.len() * 9 + 16];
    let len = normalize_into(source, &mut out, backslash_escapes);
    out.truncate(len);
    out
}

/// [`normalize_bytes`] of UTF-8 text.
pub fn normalize(source: &str, backslash_escapes: bool) -> String {
    String::from_utf8_lossy(&normalize_bytes(source.as_bytes(), backslash_escapes)).into_owned()
}

/// Normalises the text of an EXPLAIN without running it: as [`normalize`], but the planner's own figures at the end of
/// a node's line, `(cost=0.00..1.01 rows=1 width=4)`, stay.
pub fn normalize_plan(plan: &str) -> String {
    let mut out = String::with_capacity(plan.len());
    let mut rest = plan;
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(plan_line(rest));
        rest = tail.strip_prefix('\n').unwrap_or(tail);
        let (text, figures) = match line.rfind("  (cost=") {
            Some(at) if is_plan_figures(&line[at..]) => line.split_at(at),
            _ => (line, ""),
        };
        let indent = text.len() - text.trim_start().len();
        out.push_str(&text[..indent]);
        out.push_str(&normalize(text, false));
        out.push_str(figures);
        out.push('\n');
    }
    out
}

/// Length of a plan's first line. A line break within quotes belongs to what is quoted and ends no line.
fn plan_line(text: &str) -> usize {
    let first = text.find('\n').unwrap_or(text.len());
    // The name of a CTE is printed as it is, without quotes: one in it opens nothing.
    if text[..first].trim_start().starts_with("CTE ") {
        return first;
    }
    let mut open = None;
    for (at, byte) in text.bytes().enumerate() {
        match (byte, open) {
            (b'\n', None) => return at,
            (b'\'' | b'"', None) => open = Some(byte),
            (_, Some(quote)) if byte == quote => open = None,
            _ => {}
        }
    }
    text.len()
}

fn is_plan_figures(text: &str) -> bool {
    let inner = text.trim().strip_prefix("(cost=").and_then(|rest| rest.strip_suffix(')'));
    inner.is_some_and(|inner| {
        let mut words = inner.split(' ');
        let cost = words.next().is_some_and(|word| word.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
        let rest: Vec<&str> = words.collect();
        cost && rest.len() == 2
            && rest
                .iter()
                .zip(["rows=", "width="])
                .all(|(word, name)| word.strip_prefix(name).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())))
    })
}

/// The part of a text that reads the same whether or not plain strings have backslash escapes: all of it, or what comes
/// before the first string that ends elsewhere. For a text of which it is not known how the server read it.
pub fn unambiguous(source: &[u8]) -> &[u8] {
    let mut lexer = Lexer { source, at: 0, backslash_escapes: false };
    loop {
        let start = lexer.at;
        let mut other = Lexer { source, at: start, backslash_escapes: true };
        match (lexer.next(), other.next()) {
            (None, _) => return source,
            _ if lexer.at != other.at => return &source[..start],
            _ => {}
        }
    }
}

/// Whether a text is nothing but white space and comments.
pub fn is_blank(text: &[u8]) -> bool {
    let mut lexer = Lexer { source: text, at: 0, backslash_escapes: false };
    loop {
        match lexer.next() {
            None => return true,
            Some(Token::Space) => {}
            Some(_) => return false,
        }
    }
}

#[derive(PartialEq, Clone, Copy)]
enum Before {
    Operator,
    Operand,
}

struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn push(&mut self, bytes: &[u8]) {
        let take = bytes.len().min(self.out.len() - self.len);
        self.out[self.len..self.len + take].copy_from_slice(&bytes[..take]);
        self.len += take;
    }

    fn parameter(&mut self, mut number: u32) {
        let mut digits = [0u8; 11];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        at -= 1;
        digits[at] = b'$';
        self.push(&digits[at..]);
    }
}

enum Token<'a> {
    /// A constant.
    Literal,
    /// White space or a comment.
    Space,
    /// A word, a quoted identifier or a parameter.
    Operand(&'a [u8]),
    /// A lone minus sign.
    Minus,
    /// Anything else.
    Other,
}

/// What a byte can begin. Those that go on a word come last.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq)]
enum Class {
    /// Quotes, and what a comment or a number may begin with: looked at closely.
    Special,
    Space,
    Operator,
    /// A closing parenthesis or bracket.
    Closing,
    Digit,
    Dollar,
    Word,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Operator; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Class::Space,
            b'\'' | b'"' | b'-' | b'/' | b'.' => Class::Special,
            b')' | b']' => Class::Closing,
            b'$' => Class::Dollar,
            b'0'..=b'9' => Class::Digit,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Class::Word,
            _ => Class::Operator,
        };
        byte += 1;
    }
    classes
};

struct Lexer<'a> {
    source: &'a [u8],
    at: usize,
    backslash_escapes: bool,
}

impl<'a> Lexer<'a> {
    fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    fn byte(&self, at: usize) -> u8 {
        self.source.get(at).copied().unwrap_or(0)
    }

    /// Goes on to the next byte that may begin something to be left out, and says where that is; `None` at the end of
    /// the text. `before` tells what stands in front of it.
    #[inline]
    fn skip_ordinary(&mut self, before: &mut Before) -> Option<usize> {
        let source = self.source;
        let mut at = self.at;
        while let Some(&byte) = source.get(at) {
            match CLASSES[usize::from(byte)] {
                Class::Word => {
                    let start = at;
                    at += 1;
                    while source.get(at).is_some_and(|&byte| CLASSES[usize::from(byte)] as u8 >= Class::Digit as u8) {
                        at += 1;
                    }
                    let may_be_prefix = at == start + 1 && matches!(source.get(at), Some(b'\'' | b'&'));
                    if may_be_prefix {
                        self.at = start;
                        return Some(start);
                    }
                    *before = Before::Operand;
                }
                Class::Space => at += 1,
                Class::Operator => {
                    at += 1;
                    *before = Before::Operator;
                }
                Class::Closing => {
                    at += 1;
                    *before = Before::Operand;
                }
                Class::Special | Class::Digit | Class::Dollar => {
                    self.at = at;
                    return Some(at);
                }
            }
        }
        self.at = at;
        None
    }

    fn next(&mut self) -> Option<Token<'a>> {
        let start = self.at;
        let first = self.peek()?;
        let second = self.byte(start + 1);
        Some(match first {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                self.skip_while(is_space);
                Token::Space
            }
            b'-' if second == b'-' => {
                self.skip_while(|byte| byte != b'\n' && byte != b'\r');
                Token::Space
            }
            b'/' if second == b'*' => {
                self.skip_block_comment();
                Token::Space
            }
            b'-' => {
                self.at += 1;
                Token::Minus
            }
            b'\'' => {
                self.skip_string(self.backslash_escapes);
                Token::Literal
            }
            b'"' => {
                self.skip_quoted(b'"', false);
                Token::Operand(self.since(start))
            }
            b'$' if second.is_ascii_digit() => {
                self.at += 1;
                self.skip_while(|byte| byte.is_ascii_digit());
                Token::Operand(self.since(start))
            }
            b'$' if self.skip_dollar_quoted() => Token::Literal,
            b'0'..=b'9' => {
                self.skip_number();
                Token::Literal
            }
            b'.' if second.is_ascii_digit() => {
                self.skip_number();
                Token::Literal
            }
            _ if is_word_start(first) => {
                self.skip_while(is_word);
                self.after_word(start)
            }
            _ => {
                self.at += 1;
                Token::Other
            }
        })
    }

    fn since(&self, start: usize) -> &'a [u8] {
        &self.source[start..self.at]
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
    }

    /// A word that is the prefix of a string (`E'..'`, `B'..'`, `X'..'`, `N'..'`, `U&'..'`) is part of the literal;
    /// `U&".."` is an identifier.
    fn after_word(&mut self, start: usize) -> Token<'a> {
        let word = self.since(start);
        let next = self.peek().unwrap_or(0);
        if let [letter] = word {
            match (letter.to_ascii_lowercase(), next, self.byte(self.at + 1)) {
                (b'e', b'\'', _) => {
                    self.skip_string(true);
                    return Token::Literal;
                }
                (b'b' | b'x' | b'n', b'\'', _) => {
                    self.skip_string(self.backslash_escapes && letter.eq_ignore_ascii_case(&b'n'));
                    return Token::Literal;
                }
                (b'u', b'&', b'\'') => {
                    self.at += 1;
                    self.skip_string(false);
                    return Token::Literal;
                }
                (b'u', b'&', b'"') => {
                    self.at += 1;
                    self.skip_quoted(b'"', false);
                    return Token::Operand(self.since(start));
                }
                _ => {}
            }
        }
        // After a keyword a sign is a sign; after a name it subtracts. Telling them apart takes a grammar: treat every
        // word as a name, which at worst leaves the sign in front of the parameter.
        Token::Operand(word)
    }

    /// A string and those that continue it: quotes with nothing but white space, a line's end in it, between them are
    /// one literal, and all of it is read as its beginning says.
    fn skip_string(&mut self, backslash_escapes: bool) {
        self.skip_quoted(b'\'', backslash_escapes);
        while self.skip_to_continuation() {
            self.skip_quoted(b'\'', backslash_escapes);
        }
    }

    fn skip_to_continuation(&mut self) -> bool {
        let end = self.at;
        loop {
            match self.peek() {
                Some(byte) if is_space(byte) => self.at += 1,
                Some(b'-') if self.byte(self.at + 1) == b'-' => {
                    self.skip_while(|byte| byte != b'\n' && byte != b'\r');
                }
                Some(b'\'') if self.since(end).iter().any(|byte| matches!(byte, b'\n' | b'\r')) => return true,
                _ => {
                    self.at = end;
                    return false;
                }
            }
        }
    }

    /// From an opening quote to behind the closing one; a doubled quote is part of the text.
    fn skip_quoted(&mut self, quote: u8, backslash_escapes: bool) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            if byte == b'\\' && backslash_escapes {
                self.at = (self.at + 1).min(self.source.len());
            } else if byte == quote {
                if self.peek() != Some(quote) {
                    return;
                }
                self.at += 1;
            }
        }
    }

    /// `$tag$ ... $tag$`; false, with nothing consumed, when this is not the start of one.
    fn skip_dollar_quoted(&mut self) -> bool {
        let rest = &self.source[self.at..];
        let tag_len = rest[1..].iter().take_while(|&&byte| is_word(byte) && byte != b'$').count();
        let delimiter_len = tag_len + 2;
        let starts_well = tag_len == 0 || is_word_start(rest[1]);
        if !starts_well || rest.get(tag_len + 1) != Some(&b'$') {
            return false;
        }
        let delimiter = &rest[..delimiter_len];
        let body = &rest[delimiter_len..];
        let end = body.windows(delimiter_len).position(|window| window == delimiter);
        self.at += end.map_or(rest.len(), |end| end + 2 * delimiter_len);
        true
    }

    /// Digits with underscores, a fraction, an exponent, or 0x / 0o / 0b.
    fn skip_number(&mut self) {
        if self.peek() == Some(b'0') && matches!(self.byte(self.at + 1) | 0x20, b'x' | b'o' | b'b') {
            self.at += 2;
            self.skip_while(|byte| byte.is_ascii_hexdigit() || byte == b'_');
            return;
        }
        let digits = |byte: u8| byte.is_ascii_digit() || byte == b'_';
        self.skip_while(digits);
        // `1..10` is a number, two dots and a number.
        if self.peek() == Some(b'.') && self.byte(self.at + 1) != b'.' {
            self.at += 1;
            self.skip_while(digits);
        }
        if self.peek().is_some_and(|byte| byte | 0x20 == b'e') {
            let sign = usize::from(matches!(self.byte(self.at + 1), b'+' | b'-'));
            if self.byte(self.at + 1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                self.skip_while(digits);
            }
        }
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match (byte, self.byte(self.at + 1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.at += 1,
            }
        }
        self.at = self.source.len();
    }
}

/// Numbers given out start behind the parameters that the text has already.
fn highest_parameter(source: &[u8]) -> u32 {
    if !source.contains(&b'$') {
        return 0;
    }
    let mut lexer = Lexer { source, at: 0, backslash_escapes: false };
    let mut highest = 0;
    while let Some(token) = lexer.next() {
        if let Token::Operand([b'$', digits @ ..]) = token {
            let number = digits.iter().fold(0u32, |n, d| n.saturating_mul(10).saturating_add(u32::from(d - b'0')));
            highest = highest.max(number);
        }
    }
    highest.min(1_000_000)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_word(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

#[cfg(test)]
mod tests;
