//! The page with plots: a single HTML file without further files, made from the JSON.

use std::path::Path;

use serde_json::Value;

use crate::fault::{Fault, Tried};

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
/// Fields of a round that the plots use.
const OF_A_ROUND: [&str; 2] = ["cpu_us_per_delivery", "disturbed"];

/// Creates a folder and writes the `index.html` of a result into this folder.
pub(super) fn write(dir: &Path, result: &Value) -> Result<(), Fault> {
    if !result["cases"].is_array() {
        return Err(Fault::Usage("this is no result of compare".into()));
    }
    std::fs::create_dir_all(dir).tried(dir.display().to_string())?;
    let file = dir.join("index.html");
    std::fs::write(&file, page(result)).tried(file.display().to_string())
}

fn page(result: &Value) -> String {
    let mut shown = result.clone();
    let cases = shown["cases"].as_array_mut().into_iter().flatten();
    let servers = cases.flat_map(|case| case["servers"].as_array_mut().into_iter().flatten());
    let rounds = servers.flat_map(|server| server["rounds"].as_array_mut().into_iter().flatten());
    for round in rounds.filter_map(Value::as_object_mut) {
        // The samples take megabytes.
        round.retain(|key, _| OF_A_ROUND.contains(&key.as_str()));
    }
    // "</script>" in a name would end the data.
    let data = shown.to_string().replace('<', "\\u003c");
    PAGE.replace("{style}", STYLE.trim_end())
        .replace("{script}", SCRIPT.trim_end())
        .replace("{data}", &data)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_has_the_figures_without_the_samples_and_asks_for_nothing() {
        let name = "</script><b>";
        let round =
            json!({"cpu_us_per_delivery": 6.5, "disturbed": false, "histogram_us": [[1, 2]]});
        let result = json!({"cases": [{"servers": [{"name": name, "rounds": [round]}]}]});
        let page = page(&result);
        assert!(page.contains("\"cpu_us_per_delivery\":6.5"));
        assert!(!page.contains("histogram_us") && !page.contains(name));
        assert!(page.contains("\\u003c/script>\\u003cb>"));
        assert_eq!(page.matches("</script>").count(), 2);
        for address in ["src=", "url(", "@import", "fetch("] {
            assert!(!page.contains(address), "{address}");
        }
    }

    #[test]
    fn another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            write(&dir.path().join("page"), &json!({"rounds": 1})),
            Err(Fault::Usage(_))
        ));
    }
}
