//! Connection strings of keywords and values, as libpq reads them: what may be stored and sent, and what may not. Pure.

/// Keywords whose values are secrets: they belong into a password file or a user mapping.
const SECRETS: [&str; 5] = ["password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"];
/// Keywords that are taken: what libpq knows, up to 18, but secrets and what makes another kind of connection of it. What
/// is not known may be a secret that was misspelt.
const KNOWN: [&str; 41] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "options",
    "passfile",
    "port",
    "require_auth",
    "requirepeer",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Why a connection string is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It holds a secret under this keyword.
    Secret(String),
    /// It has this keyword, which is not one of those that are taken.
    Forbidden(String),
    /// It cannot be read, for this reason.
    Syntax(String),
}

/// Keywords and values in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conninfo(Vec<(String, String)>);

impl Conninfo {
    /// Reads `keyword = value` pairs with the quotes and backslashes of libpq. No URIs: they have a place for a password
    /// before the host, and another one behind it.
    pub fn parse(text: &str) -> Result<Conninfo, Refusal> {
        let syntax = |reason: &str| Refusal::Syntax(reason.to_owned());
        if text.contains('\0') {
            return Err(syntax("it holds a zero byte"));
        }
        if text.trim_start().starts_with("postgres://") || text.trim_start().starts_with("postgresql://") {
            return Err(syntax("it is a URI"));
        }
        let mut pairs = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
            let (keyword, after) = rest.split_at(end);
            let Some(after) = after.trim_start().strip_prefix('=').filter(|_| !keyword.is_empty()) else {
                return Err(Refusal::Syntax(format!("\"{keyword}\" is not followed by = and a value")));
            };
            let (value, after) = value(after.trim_start()).ok_or_else(|| syntax("a quote is not closed"))?;
            if SECRETS.contains(&keyword) {
                return Err(Refusal::Secret(keyword.to_owned()));
            }
            if !KNOWN.contains(&keyword) {
                return Err(Refusal::Forbidden(keyword.to_owned()));
            }
            pairs.push((keyword.to_owned(), value));
            rest = after.trim_start();
        }
        if pairs.is_empty() {
            return Err(syntax("it is empty"));
        }
        Ok(Conninfo(pairs))
    }

    /// Whether a keyword is set.
    pub fn has(&self, keyword: &str) -> bool {
        self.0.iter().any(|(known, _)| known == keyword)
    }

    /// The value of a keyword: its last one.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == keyword).map(|(_, value)| value.as_str())
    }

    /// Sets a keyword, whatever it was.
    pub fn set(&mut self, keyword: &str, value: &str) {
        self.0.retain(|(known, _)| known != keyword);
        self.0.push((keyword.to_owned(), value.to_owned()));
    }

    /// As a connection string.
    pub fn text(&self) -> String {
        let quoted = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
        let pairs: Vec<String> =
            self.0.iter().map(|(keyword, value)| format!("{keyword}='{}'", quoted(value))).collect();
        pairs.join(" ")
    }
}

/// The value at the beginning of a text, and what follows it; None when its quote is not closed.
fn value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let quoted = text.starts_with('\'');
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if c.is_whitespace() && !quoted => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> Result<Vec<(String, String)>, Refusal> {
        Conninfo::parse(text).map(|info| info.0)
    }

    #[test]
    fn reads_what_libpq_reads() {
        let want = |list: &[(&str, &str)]| {
            Ok(list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>())
        };
        assert_eq!(pairs(" host = a  port=1"), want(&[("host", "a"), ("port", "1")]));
        assert_eq!(pairs(r"host='a b\' c' user=x\ y"), want(&[("host", "a b' c"), ("user", "x y")]));
        assert_eq!(pairs("host=''port=2"), want(&[("host", ""), ("port", "2")]));
        for bad in ["", "  ", "host", "host a", "=a", "host='a", "postgresql://u:p@h/d", "h=a\0b"] {
            assert!(matches!(pairs(bad), Err(Refusal::Syntax(_))), "{bad}");
        }
    }

    #[test]
    fn secrets_are_refused_however_they_are_written() {
        for bad in [
            "password=x",
            "host=a password = 'x'",
            "host=a\tpassword\n=x",
            "scram_client_key=x",
            "user='a' password=''",
        ] {
            assert!(matches!(pairs(bad), Err(Refusal::Secret(_))), "{bad}");
        }
        for bad in ["replication", "passwd", "Password", "sslkeylogfile"] {
            assert_eq!(pairs(&format!("host=a {bad}=x")), Err(Refusal::Forbidden(bad.to_owned())));
        }
        assert!(pairs("application_name='password=x' passfile=/a").is_ok());
    }

    #[test]
    fn a_keyword_is_set_once() {
        let mut info = Conninfo::parse("connect_timeout=900 host=a connect_timeout=0").unwrap_or_default();
        info.set("connect_timeout", "4");
        assert_eq!(info.text(), "host='a' connect_timeout='4'");
        assert!(info.has("host") && !info.has("dbname"));
        let twice = Conninfo::parse("host=a host=b").unwrap_or_default();
        assert_eq!((twice.get("host"), twice.get("port")), (Some("b"), None));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(values in proptest::collection::vec("[a-z' \\\\=\t]{0,6}", 1..5)) {
            let mut info = Conninfo::default();
            values.iter().zip(KNOWN).for_each(|(v, keyword)| info.set(keyword, v));
            prop_assert_eq!(Conninfo::parse(&info.text()), Ok(info));
        }

        #[test]
        fn nothing_panics_and_no_secret_passes(text in "[a-z'\\\\= pasword]{0,40}") {
            if let Ok(info) = Conninfo::parse(&text) {
                prop_assert!(!info.has("password"));
            }
        }
    }
}
