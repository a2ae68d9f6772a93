//! Short names for the variables of a script.

use std::collections::{HashMap, HashSet};

use super::is_word;

/// What a bracket holds, from the bracket on.
struct Bracket {
    at: usize,
    /// Whether it is of an object or a pattern: names in it are keys too.
    has_keys: bool,
    /// Whether the tokens belong to a declaration.
    declares: bool,
}

/// Renames variables to single letters, a name the same everywhere, as far as there are letters.
///
/// A name is renamed if it is declared (`const`, `let`, a parameter of an arrow function), and each of its places is a
/// variable's: no member, key, method, export or text is called so. For the style of `clients/js`: no variable is named
/// like a global that the script uses, and no public field is named like a variable without being used as a member.
pub(super) fn renamed(tokens: &[&str]) -> String {
    let solid: Vec<&str> = tokens
        .iter()
        .copied()
        .filter(|token| !token.trim().is_empty())
        .collect();
    let (declared, fixed) = variables(&solid);
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for token in solid.iter().filter(|token| is_name(token)) {
        *counts.entry(token).or_default() += 1;
    }
    let mut names: Vec<&str> = declared
        .difference(&fixed)
        .copied()
        .filter(|name| name.len() > 1)
        .collect();
    names.sort_by_key(|name| (std::cmp::Reverse(counts[name] * name.len()), *name));
    let letters = ('a'..='z').chain('A'..='Z').map(String::from);
    let free = letters.filter(|letter| !counts.contains_key(letter.as_str()));
    let short: HashMap<&str, String> = names.into_iter().zip(free).collect();
    let text = |token: &&str| short.get(token).map_or(*token, String::as_str).to_owned();
    tokens.iter().map(text).collect()
}

/// The names that are declared, and those that something else may mean too.
fn variables<'a>(tokens: &[&'a str]) -> (HashSet<&'a str>, HashSet<&'a str>) {
    let (mut declared, mut fixed) = (HashSet::new(), HashSet::new());
    let mut brackets: Vec<Bracket> = Vec::new();
    for (at, &token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).map_or("", |at| tokens[at]);
        let after = tokens.get(at + 1).copied().unwrap_or_default();
        let inner = brackets.last_mut();
        match token {
            "const" | "let" => {
                if let Some(inner) = inner {
                    inner.declares = true;
                }
            }
            ";" => {
                if let Some(inner) = inner {
                    inner.declares = false;
                }
            }
            _ if is_name(token) => {
                let declares = inner.as_ref().is_some_and(|inner| inner.declares);
                let has_keys = inner.is_some_and(|inner| inner.has_keys);
                let is_listed = declares && before == "," && matches!(after, "=" | "," | ";");
                if matches!(before, "const" | "let") || is_listed {
                    declared.insert(token);
                }
                let is_exported = at >= 2 && tokens[at - 2] == "export";
                let is_key = has_keys
                    && matches!(before, "{" | ",")
                    && matches!(after, "," | "}" | "=" | ":")
                    && !is_listed;
                let is_method = after == "(" && heads_a_block(&tokens[at + 1..]);
                let is_spread = at >= 2 && tokens[at - 2] == ".";
                let is_member = before == "." && !is_spread;
                let is_named = matches!(
                    before,
                    "get" | "set" | "static" | "async" | "class" | "function"
                );
                if is_exported || is_key || is_method || is_member || is_named {
                    fixed.insert(token);
                }
            }
            _ => {
                let ends = token.starts_with(['}', ')', ']']);
                if let Some(bracket) = ends.then(|| brackets.pop()).flatten()
                    && after == "="
                    && tokens.get(at + 2) == Some(&">")
                {
                    declared.extend(parameters(&tokens[bracket.at + 1..at]));
                }
                if let Some(open) = token.chars().next_back().filter(|&c| "{([".contains(c)) {
                    let is_block = matches!(
                        before,
                        ")" | ">" | "else" | "try" | "finally" | ";" | "}" | "{"
                    );
                    brackets.push(Bracket {
                        at,
                        has_keys: open == '{' && token == "{" && !is_block,
                        declares: false,
                    });
                }
            }
        }
    }
    (declared, fixed)
}

/// Whether a block follows the brackets that `tokens` begin with.
fn heads_a_block(tokens: &[&str]) -> bool {
    let mut depth = 0;
    let end = tokens.iter().position(|token| {
        depth += isize::from(*token == "(") - isize::from(*token == ")");
        depth == 0
    });
    end.is_some_and(|end| tokens.get(end + 1) == Some(&"{"))
}

/// The names between commas, without those in brackets and the values of defaults.
fn parameters<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    let mut depth = 0;
    let mut names = Vec::new();
    for (at, &token) in tokens.iter().enumerate() {
        let is_first = at == 0 || depth == 0 && tokens[at - 1] == ",";
        if is_first && is_name(token) {
            names.push(token);
        }
        match token.chars().next_back() {
            Some('{' | '(' | '[') => depth += 1,
            Some('}' | ')' | ']') => depth -= 1,
            _ => {}
        }
    }
    names
}

fn is_name(token: &str) -> bool {
    const OTHERS: [&str; 36] = [
        "async",
        "await",
        "break",
        "case",
        "catch",
        "class",
        "const",
        "continue",
        "default",
        "delete",
        "else",
        "export",
        "extends",
        "false",
        "finally",
        "for",
        "function",
        "if",
        "in",
        "instanceof",
        "let",
        "new",
        "null",
        "of",
        "return",
        "static",
        "super",
        "switch",
        "this",
        "throw",
        "true",
        "try",
        "typeof",
        "undefined",
        "while",
        "yield",
    ];
    let is_own = |c: char| is_word(c) && c != '#';
    token.chars().all(is_own)
        && !token.starts_with(|c: char| c.is_ascii_digit())
        && !OTHERS.contains(&token)
}
