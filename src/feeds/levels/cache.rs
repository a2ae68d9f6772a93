//! The latest flow, levels and viewport, each as the bytes that stand in the merged payload.

/// The known parts of the merged payload.
#[derive(Debug, Default)]
pub(super) struct Cache {
    flow: Option<Vec<u8>>,
    levels: Option<Vec<u8>>,
    viewport: Option<Vec<u8>>,
}

impl Cache {
    /// A new flow; `None` takes the key away.
    pub(super) fn set_flow(&mut self, flow: Option<Vec<u8>>) {
        self.flow = flow;
    }

    /// New levels, and the viewport that came with them.
    pub(super) fn set_levels(&mut self, levels: Vec<u8>, viewport: Option<&str>) {
        self.levels = Some(levels);
        self.viewport = viewport.map(|text| text.as_bytes().to_vec());
    }

    /// Length of the last levels, to size the next ones by.
    pub(super) fn levels_bytes(&self) -> usize {
        self.levels.as_ref().map_or(0, Vec::len)
    }

    /// Nothing is known: the merged payload is `{}`.
    pub(super) fn is_empty(&self) -> bool {
        self.parts().all(|(_, value)| value.is_none())
    }

    /// Bytes that [`Self::write`] appends.
    pub(super) fn merged_bytes(&self) -> usize {
        let known = |(key, value): (&str, Option<&[u8]>)| Some(1 + key.len() + value?.len());
        // One byte before each part, an opening brace or a comma, and the closing brace.
        self.parts().filter_map(known).sum::<usize>().max(1) + 1
    }

    /// Appends the merged payload.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if self.is_empty() {
            out.push(b'{');
        }
        let mut before = b'{';
        for (key, value) in self.parts() {
            let Some(value) = value else { continue };
            out.push(before);
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(value);
            before = b',';
        }
        out.push(b'}');
    }

    fn parts(&self) -> impl Iterator<Item = (&'static str, Option<&[u8]>)> {
        [
            ("\"flow\":", self.flow.as_deref()),
            ("\"levels\":", self.levels.as_deref()),
            ("\"viewport\":", self.viewport.as_deref()),
        ]
        .into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_in_order_and_only_while_known() {
        let cases = [
            (None, None, None, "{}"),
            (Some("1"), None, None, r#"{"flow":1}"#),
            (None, Some("{}"), None, r#"{"levels":{}}"#),
            (None, Some("{}"), Some("0"), r#"{"levels":{},"viewport":0}"#),
            (
                Some("[]"),
                Some("{}"),
                Some("\"\""),
                r#"{"flow":[],"levels":{},"viewport":""}"#,
            ),
        ];
        for (flow, levels, viewport, merged) in cases {
            let mut cache = Cache::default();
            cache.set_flow(flow.map(|f| f.as_bytes().to_vec()));
            if let Some(levels) = levels {
                cache.set_levels(levels.as_bytes().to_vec(), viewport);
            }
            let mut out = Vec::new();
            cache.write(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), merged);
            assert_eq!(cache.merged_bytes(), merged.len(), "{merged}");
            assert_eq!(cache.is_empty(), merged == "{}");
        }
    }
}
