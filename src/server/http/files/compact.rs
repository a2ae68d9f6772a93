//! A script without what only its readers need.

mod locals;

/// Leaves out comments and white space, and shortens the names of private members and of variables: `#freshAt` becomes
/// `#a`. Strings, templates and regular expressions stay as they are.
///
/// Written for the style of `clients/js`: a statement ends with `;` or `}`, and a slash behind an operator, a bracket or
/// `return` begins a regular expression. The tests run the scripts as they are served.
pub(super) fn compact(code: &str) -> String {
    let mut script = Script::default();
    let mut gap = "";
    script.read(code, |script, token| {
        let is_comment = token.starts_with("//") || token.starts_with("/*");
        match token.trim().is_empty() {
            _ if is_comment => {}
            true if token.contains('\n') => gap = "\n",
            true if gap.is_empty() => gap = " ",
            true => {}
            false => {
                script.push(gap, token);
                gap = "";
            }
        }
    });
    let short = script.out;
    let mut tokens = Vec::new();
    Script::default().read(&short, |script, token| {
        script.out.push_str(token);
        tokens.push(token);
    });
    locals::renamed(&tokens)
}

#[derive(Default)]
struct Script<'a> {
    out: String,
    private_names: Vec<&'a str>,
    /// For each `${` that is open, the braces that are open in it.
    open_braces: Vec<usize>,
}

impl<'a> Script<'a> {
    /// Calls `take` with each token, which has to append it to `out`.
    fn read(&mut self, code: &'a str, mut take: impl FnMut(&mut Self, &'a str)) {
        let mut rest = code;
        while !rest.is_empty() {
            let (token, after) = rest.split_at(self.token_len(rest));
            rest = after;
            take(self, token);
        }
    }

    /// Bytes of the first token of `text`.
    fn token_len(&mut self, text: &str) -> usize {
        let first = text.chars().next().unwrap_or_default();
        let run_of = |is_part: fn(char) -> bool| text.find(|c| !is_part(c)).unwrap_or(text.len());
        match first {
            _ if text.starts_with("//") => run_of(|c| c != '\n'),
            _ if text.starts_with("/*") => text.find("*/").map_or(text.len(), |at| at + 2),
            '"' | '\'' => literal_len(text, |rest| rest.starts_with(first).then_some(1)),
            '`' => self.template_len(text),
            '}' if self.open_braces.last() == Some(&0) => {
                self.open_braces.pop();
                self.template_len(text)
            }
            '/' if self.expects_a_value() => regular_expression_len(text),
            _ if is_word(first) => run_of(is_word),
            _ if first.is_whitespace() => run_of(char::is_whitespace),
            _ => {
                match (first, self.open_braces.last_mut()) {
                    ('{', Some(open)) => *open += 1,
                    ('}', Some(open)) => *open -= 1,
                    _ => {}
                }
                first.len_utf8()
            }
        }
    }

    /// Bytes of a template up to its end, or to the next `${`.
    fn template_len(&mut self, text: &str) -> usize {
        let length = literal_len(text, |rest| match rest.starts_with("${") {
            true => Some(2),
            false => rest.starts_with('`').then_some(1),
        });
        if text[..length].ends_with("${") {
            self.open_braces.push(0);
        }
        length
    }

    fn expects_a_value(&self) -> bool {
        self.out.is_empty() || self.out.ends_with("return") || self.out.ends_with(is_before_a_value)
    }

    /// Appends a token, behind `gap` where the two would be read as one otherwise.
    fn push(&mut self, gap: &str, token: &'a str) {
        let (last, first) = (self.out.chars().next_back(), token.chars().next());
        let (last, first) = (last.unwrap_or_default(), first.unwrap_or_default());
        let is_one = is_word(last) && is_word(first) || last == first && "+-".contains(first);
        let ends_a_statement =
            gap == "\n" && !is_before_a_value(last) && !"}).?:&|,;".contains(first);
        if !self.out.is_empty() && (is_one || ends_a_statement) {
            self.out.push_str(gap);
        }
        // The last statement of a block needs no end, the last member no comma.
        if first == '}' && ";,".contains(last) {
            self.out.pop();
        }
        match token.strip_prefix('#') {
            Some(name) => {
                let short = self.short(name);
                self.out.push('#');
                self.out.push_str(&short);
            }
            None if token == "const" => self.out.push_str("let"),
            None if first.is_ascii_digit() => self.out.push_str(&token.replace('_', "")),
            None => self.out.push_str(token),
        }
    }

    /// The letter of a private name, or several once the letters are used up.
    fn short(&mut self, name: &'a str) -> String {
        let known = self.private_names.iter().position(|&known| known == name);
        let mut number = known.unwrap_or_else(|| {
            self.private_names.push(name);
            self.private_names.len() - 1
        });
        let mut short = String::new();
        loop {
            short.extend(('a'..='z').nth(number % 26));
            match (number / 26).checked_sub(1) {
                Some(next) => number = next,
                None => return short,
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "_$#".contains(c)
}

fn is_before_a_value(c: char) -> bool {
    "{};,([=&|?:!>".contains(c)
}

/// Bytes of a literal. `end` gets the text from each character on that no backslash escapes, and returns the bytes of the
/// end of the literal.
fn literal_len(text: &str, mut end: impl FnMut(&str) -> Option<usize>) -> usize {
    let mut at = 1;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some(length) = end(rest) {
            return at + length;
        }
        let passed = if rest.starts_with('\\') { 2 } else { 1 };
        at += rest.chars().take(passed).map(char::len_utf8).sum::<usize>();
    }
    text.len()
}

/// Bytes of a regular expression without its flags. A slash in brackets does not end it.
fn regular_expression_len(text: &str) -> usize {
    let mut is_in_brackets = false;
    literal_len(text, |rest| {
        match rest.chars().next() {
            Some('[') => is_in_brackets = true,
            Some(']') => is_in_brackets = false,
            Some('/') if !is_in_brackets => return Some(1),
            _ => {}
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn becomes(code: &str, wanted: &str) {
        assert_eq!(compact(code), wanted);
    }

    #[test]
    fn comments_and_white_space_are_left_out_where_they_separate_nothing() {
        becomes(
            "// a\nlet a = 1; // b\n\n/** c\n * d */\nconst b = async (c) => {\n  await c;\n};\n",
            "let a=1;let b=async(c)=>{await c};",
        );
        becomes("a + +b - -c + ++d", "a+ +b- -c+ ++d");
        becomes("let a\nlet b = [\n  1,\n  2,\n]", "let a\nlet b=[1,2,]");
        becomes("a\n  .b()\n  ?.c", "a.b()?.c");
        becomes("else if (a) return b in c", "else if(a)return b in c");
    }

    #[test]
    fn literals_stay_as_they_are() {
        for literal in [
            r#""a  // \" b""#,
            r"'a /* \' \\'",
            "`a  ${b}  // ${`c  ${d}`} \\` e`",
            "`a ${{b:{}}}  c`",
            r#"/a  [/\]"b]\/ #c/s"#,
        ] {
            becomes(&format!("f( {literal} ) ;  g"), &format!("f({literal});g"));
        }
        becomes("() => /a  b/.test(c)", "()=>/a  b/.test(c)");
        becomes("return /a  b/g . test(c)", "return/a  b/g.test(c)");
        becomes("(a) / b / c", "(a)/b/c");
        becomes("`${ a + {  } }  b`", "`${a+{}}  b`");
        becomes("\"not ended ", "\"not ended ");
    }

    #[test]
    fn variables_are_letters_where_nothing_else_has_their_name() {
        becomes(
            "const first = (second, third = 1_000) => { let fourth, fifth = second; return first(fourth, fifth, third, ...second); };",
            "let d=(a,e=1000)=>{let b,c=a;return d(b,c,e,...a)};",
        );
        for kept in [
            "let part={part:1}",
            "let part={part}",
            "let{part}=whole",
            "let part=a.part",
            "let part=a?.part",
            "export let part=1",
            "class A{part(){let part=1}}",
            "class A{get part(){let part=1}}",
            "part(whole)",
            "f(part)(whole)",
        ] {
            becomes(kept, kept);
        }
        becomes(
            "let part=()=>{part=1;if(part){part=2}}",
            "let a=()=>{a=1;if(a){a=2}}",
        );
        becomes(
            "let part=`part ${part} part`+\"part\"",
            "let a=`part ${a} part`+\"part\"",
        );
        becomes("{let part=a,whole=b}", "{let d=a,c=b}");
    }

    #[test]
    fn private_names_are_letters() {
        becomes(
            "class A { #first = 1; #second() { return #first in this && this.#first; } }",
            "class A{#a=1;#b(){return #a in this&&this.#a}}",
        );
        let names: String = (0..60).map(|n| format!("#n{n};")).collect();
        let short = compact(&names);
        assert!(
            short.starts_with("#a;#b;") && short.contains("#z;#aa;#ba;"),
            "{short}"
        );
        becomes("\"#kept\" + `#kept`", "\"#kept\"+`#kept`");
    }
}
