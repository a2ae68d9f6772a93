//! Which pages may connect (RFC 6454): exact origins, never parts of them.

/// Who may come, by the `Origin` header that browsers send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// Empty: anyone.
    allowed: Vec<String>,
}

impl Origins {
    /// Allows all.
    pub fn any() -> &'static Self {
        static ANY: Origins = Origins {
            allowed: Vec::new(),
        };
        &ANY
    }

    /// Allows these origins (`https://example.com`, without a path); none given allows all.
    pub fn new(allowed: impl IntoIterator<Item = String>) -> Self {
        let tidy = |origin: String| origin.trim_end_matches('/').to_ascii_lowercase();
        Self {
            allowed: allowed.into_iter().map(tidy).collect(),
        }
    }

    /// A request without `Origin` comes from no page and passes: programs are not stopped here.
    pub fn allow(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin.filter(|_| !self.allowed.is_empty()) else {
            return true;
        };
        self.allowed
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }
}

#[cfg(test)]
mod tests {
    use super::Origins;

    #[test]
    fn only_the_whole_origin_counts() {
        let origins = Origins::new([
            "https://good.example".to_owned(),
            "http://a:8080/".to_owned(),
        ]);
        assert!(origins.allow(Some("https://GOOD.example")));
        assert!(origins.allow(Some("http://a:8080")));
        assert!(origins.allow(None));
        for bad in [
            "http://good.example",
            "https://good.example.evil",
            "https://xgood.example",
            "null",
            "",
        ] {
            assert!(!origins.allow(Some(bad)), "{bad}");
        }
        assert!(Origins::default().allow(Some("http://anything")));
    }
}
