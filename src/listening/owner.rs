//! The owner of a unix socket: names of the system, or numbers.

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;

/// A user, a group, or both; the system decides about unset parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    user: Option<String>,
    group: Option<String>,
}

/// The error for a text other than `USER`, `USER:GROUP` and `:GROUP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither USER nor USER:GROUP nor :GROUP")]
pub struct NoOwner;

impl FromStr for Owner {
    type Err = NoOwner;

    fn from_str(text: &str) -> Result<Self, NoOwner> {
        let name = |text: &str| match text {
            "" => Ok(None),
            name if name.contains([':', '/']) || name.contains(char::is_whitespace) => Err(NoOwner),
            name => Ok(Some(name.to_owned())),
        };
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self {
            user: name(user)?,
            group: name(group)?,
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.as_deref().unwrap_or_default())?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

impl Owner {
    /// Returns the numbers of user and group, read from `/etc/passwd` and `/etc/group`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: the name is unknown.
    pub(super) fn ids(&self) -> io::Result<(Option<u32>, Option<u32>)> {
        let user = self.user.as_deref().map(|name| id(name, "/etc/passwd"));
        let group = self.group.as_deref().map(|name| id(name, "/etc/group"));
        Ok((user.transpose()?, group.transpose()?))
    }
}

/// Returns a number as such, or the third field of the line of a name (passwd(5), group(5)).
fn id(name: &str, file: &'static str) -> io::Result<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let lines = fs::read_to_string(file).unwrap_or_default();
    find(name, &lines).ok_or_else(|| {
        let text = format!("its owner: no {name:?} in {file}; a number is allowed too");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

fn find(name: &str, lines: &str) -> Option<u32> {
    lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name);
        fields.nth(1).filter(|_| is_it)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(text: &str) -> Option<Owner> {
        text.parse().ok()
    }

    #[test]
    fn an_owner_is_a_user_a_group_or_both() {
        for text in ["", "www-data", ":www-data", "weirgate:www-data", "0:33"] {
            assert_eq!(owner(text).map(|o| o.to_string()).as_deref(), Some(text));
        }
        assert_eq!(owner("a:").map(|o| o.to_string()).as_deref(), Some("a"));
        for bad in ["a:b:c", "a b", "../a", "a:b/c"] {
            assert_eq!(owner(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_looked_up_and_numbers_are_not() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:34::/var/www:/bin/sh\nodd\n";
        assert_eq!(find("www-data", passwd), Some(33));
        assert_eq!(find("www", passwd), None);
        assert_eq!(find("odd", passwd), None);
        let ids = |text: &str| owner(text).expect("an owner").ids();
        assert_eq!(ids("4711:12").expect("numbers"), (Some(4711), Some(12)));
        assert_eq!(ids("root").expect("is everywhere"), (Some(0), None));
        let error = ids(":no-such-group").expect_err("unknown");
        assert!(error.to_string().contains("/etc/group"), "{error}");
    }
}
