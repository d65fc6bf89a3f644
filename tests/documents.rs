//! The documents hold: their links lead somewhere, the files that they name are there, the index has all of them, and every
//! `nvmx` command line in them is one that the program understands.

mod common;

use common::nvmx;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A Markdown file of the repository.
struct Document {
    /// Its path from the root, with `/` between its parts.
    name: String,
    text: String,
}

impl Document {
    fn of(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned() }
    }

    /// The text outside fenced blocks.
    fn prose(&self) -> String {
        self.parts().filter(|(fenced, _)| !fenced).map(|(_, line)| format!("{line}\n")).collect()
    }

    /// Each line but the fences themselves, with whether it is in a fenced block.
    fn parts(&self) -> impl Iterator<Item = (bool, &str)> {
        let mut fenced = false;
        self.text.lines().filter_map(move |line| {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
                return None;
            }
            Some((fenced, line))
        })
    }

    /// The texts in backticks, in prose; a line break in one is a blank.
    fn spans(&self) -> Vec<String> {
        let joined = self.prose().replace('\n', " ");
        joined.split('`').skip(1).step_by(2).map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// Its headings, as what a link to one is called.
    fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        for heading in self.parts().filter(|(fenced, line)| !fenced && line.starts_with('#')).map(|(_, line)| line) {
            let name = anchor(heading.trim_start_matches('#').trim());
            let mut number = 0;
            let mut unique = name.clone();
            while !anchors.insert(unique) {
                number += 1;
                unique = format!("{name}-{number}");
            }
        }
        anchors
    }

    /// Where its links lead, in prose.
    fn links(&self) -> Vec<String> {
        // What is in backticks is no link.
        let prose: String = self.prose().split('`').step_by(2).collect::<Vec<_>>().join(" ");
        let ends = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        ends.map(|(link, _)| link.trim().to_owned()).collect()
    }

    /// The command lines of `nvmx` in it, without the name.
    fn lines(&self) -> BTreeSet<String> {
        let mut lines: BTreeSet<String> = self.spans().iter().filter_map(|span| of_nvmx(span)).collect();
        let mut whole = String::new();
        for (fenced, line) in self.parts() {
            if !fenced {
                whole.clear();
                continue;
            }
            whole.push_str(if whole.is_empty() { line } else { line.trim_start() });
            if let Some(begun) = whole.strip_suffix('\\') {
                whole.truncate(begun.trim_end().len());
                whole.push(' ');
                continue;
            }
            // What a command prints is no command: the line begins with the prompt or with the name.
            let typed = whole.strip_prefix("$ ").unwrap_or(&whole).to_owned();
            lines.extend(commands(&typed).iter().filter_map(|command| of_nvmx(command)));
            whole.clear();
        }
        lines
    }
}

/// What a link to a heading is called: lower case, without punctuation, with hyphens for blanks.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The commands of a line of shell: what stands between `;`, `|`, `&&` and the words of a loop, outside of quotes, without
/// comments, redirections and what is set for one command.
fn commands(line: &str) -> Vec<String> {
    let mut commands = vec![String::new()];
    let (mut quote, mut depth) = (None, 0);
    let characters: Vec<char> = line.chars().collect();
    for (at, &c) in characters.iter().enumerate() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('(', None) => depth += 1,
            (')', None) => depth -= 1,
            ('#', None) if at == 0 || characters[at - 1] == ' ' => break,
            // Prose stands behind a command with a gap before it.
            (' ', None) if at > 0 && characters[at - 1] == ' ' && !commands.iter().all(String::is_empty) => break,
            (';' | '|' | '&' | '>' | '<', None) if depth == 0 => {
                commands.push(if "><".contains(c) { "to".to_owned() } else { String::new() });
                continue;
            }
            _ => {}
        }
        commands.last_mut().expect("there is always one").push(c);
    }
    let strip = |command: &str| {
        let mut words = command.trim();
        while let Some((first, rest)) = words.split_once(' ') {
            if !(["do", "sudo", "time", "then", "&&"].contains(&first)
                || first.contains('=') && !first.starts_with('-'))
            {
                break;
            }
            words = rest.trim_start();
        }
        words.to_owned()
    };
    commands.iter().map(|command| strip(command)).collect()
}

/// The words of a command behind `nvmx`, or behind `cargo run --release --`, if it is one.
fn of_nvmx(command: &str) -> Option<String> {
    let words = command.strip_prefix("nvmx ").or_else(|| command.strip_prefix("cargo run --release -- "))?;
    words.starts_with(|c: char| c.is_ascii_lowercase() || c == '-').then(|| words.trim().to_owned())
}

/// The words of a line, as a shell has them.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut depth) = (Vec::new(), None::<String>, None, 0);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (' ', None) if depth == 0 => words.extend(word.take()),
            _ => {
                depth += i32::from(c == '(') - i32::from(c == ')');
                word.get_or_insert_default().push(c);
            }
        }
    }
    words.extend(word);
    words
}

/// Something that may stand where a document has a word in capitals, or a variable, behind `option`.
fn example(command: &str, option: &str, word: &str) -> String {
    let stands_for = |word: &str| {
        word.starts_with('$')
            || word.starts_with(|c: char| c.is_ascii_uppercase())
                && !word.contains(|c: char| c.is_ascii_lowercase() || c == '.')
    };
    if !stands_for(word) {
        return word.to_owned();
    }
    match (option, command) {
        ("--policy", _) => "mapped",
        ("--fault", _) => "ept02-unsynced",
        ("--shadowing", _) => "emulated",
        ("--log", _) => "l0",
        ("--judge", _) => "replay",
        ("--kind", _) => "exit",
        ("--gdb", _) => ":1234",
        ("--from", "import") => "iris",
        ("--to", "export") => "parquet",
        ("--format", _) => "json",
        ("", "completions") => "bash",
        ("--mem" | "--buffer", _) => "64M",
        (
            "" | "-o" | "--output" | "--store" | "--each" | "--junit" | "--kernel" | "--initrd" | "--append"
            | "--input" | "--stop-on" | "--salvage",
            _,
        ) => word,
        _ => "64",
    }
    .to_owned()
}

/// What the program says of a command line that it does not understand.
fn misunderstood(line: &str) -> Result<(), String> {
    // Brackets are around what may be left out, and dots stand for more.
    let plain = words(&line.replace(['[', ']', '…'], "").replace("...", "").replace(",,", ","));
    let mut given: Vec<String> = Vec::new();
    let command = plain.first().cloned().unwrap_or_default();
    let mut option = String::new();
    for word in plain {
        let word = word.trim_end_matches([',', ':']).to_owned();
        if word.is_empty() {
            continue;
        }
        let shown = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => format!("{name}={}", example(&command, name, value)),
            _ if word.starts_with('-') => word.clone(),
            _ => word.split(',').map(|word| example(&command, &option, word)).collect::<Vec<_>>().join(","),
        };
        option = if word.starts_with('-') { word } else { String::new() };
        given.push(shown);
    }
    // Help at the end has everything before it parsed, values too, and nothing done.
    let ask = |given: &[String]| nvmx(&given.iter().map(String::as_str).chain(["--help"]).collect::<Vec<_>>());
    let ran = ask(&given);
    if ran.status == 0 {
        return Ok(());
    }
    // An option that is named alone lacks its value, but is there.
    if let Some((last, before)) = given.split_last()
        && last.starts_with("--")
    {
        let help = ask(before);
        if help.status == 0 && help.out.split(|c: char| c.is_whitespace() || ",=[".contains(c)).any(|word| word == last)
        {
            return Ok(());
        }
    }
    Err(ran.err)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder of the repository and of those in it, whose names end so.
fn files(folder: &Path, end: &str, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).expect("a folder of the repository").flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            if !name.starts_with('.') && !name.starts_with("target") && !name.starts_with("nvmx-demo") {
                files(&path, end, found);
            }
        } else if name.ends_with(end) {
            found.push(path);
        }
    }
}

fn documents() -> Vec<Document> {
    let mut found = Vec::new();
    files(root(), ".md", &mut found);
    let name = |path: &Path| path.strip_prefix(root()).expect("it is below").to_string_lossy().replace('\\', "/");
    let all: Vec<_> =
        found.iter().map(|path| Document::of(&name(path), &std::fs::read_to_string(path).expect("text"))).collect();
    assert!(all.iter().any(|document| document.name == "README.md"));
    assert!(all.iter().filter(|document| document.name.starts_with("docs/")).count() > 20);
    all
}

/// What is wrong with a link of a document.
fn broken(document: &Document, link: &str) -> Option<String> {
    if ["http://", "https://", "mailto:"].iter().any(|scheme| link.starts_with(scheme)) {
        return None;
    }
    let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
    let path = if file.is_empty() {
        root().join(&document.name)
    } else {
        root().join(&document.name).parent().expect("a file has a folder").join(file)
    };
    if !path.exists() {
        return Some(format!("{}: {link} leads to no file", document.name));
    }
    let heading = heading?;
    let aim = Document::of(file, &std::fs::read_to_string(&path).ok()?);
    (!aim.anchors().contains(heading)).then(|| format!("{}: {link} leads to no heading", document.name))
}

#[test]
fn links_lead_somewhere() {
    let all = documents();
    let links: usize = all.iter().map(|document| document.links().len()).sum();
    assert!(links > 50, "there are {links} links");
    let broken: Vec<_> = all
        .iter()
        .flat_map(|document| document.links().into_iter().filter_map(|link| broken(document, &link)))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let check = |text: &str, wrong: bool| {
        let document = Document::of("docs/some.md", text);
        let broken: Vec<_> = document.links().iter().filter_map(|link| broken(&document, link)).collect();
        assert_eq!(broken.len(), usize::from(wrong), "{text}: {broken:?}");
    };
    check("[a](machine.md)", false);
    check("[a](machine.md#memory) and more", false);
    check("[a](../README.md)", false);
    check("[a](https://example.org/)", false);
    check("`[a](nothing.md)`", false);
    check("```\n[a](nothing.md)\n```", false);
    check("[a](nothing.md)", true);
    check("[a](machine.md#nothing)", true);
    check("![a](pictures/nothing.svg)", true);
}

/// What looks like a file of the repository: `docs/…`, or a path of several parts below one of its folders.
fn paths(text: &str) -> BTreeSet<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let heads = [
        "analyzer/",
        "benches/",
        "cli/",
        "docs/",
        "hv/",
        "recorder/",
        "replayer/",
        "tests/",
        "traces/",
        "tui/",
        ".ci/",
    ];
    let words = text.split(|c: char| !plain(c)).map(|word| word.trim_end_matches(['.', '/']));
    let known = words.filter(|word| heads.iter().any(|head| word.starts_with(head)));
    // A part in capitals stands for a name.
    let named = |word: &&str| {
        word.split('/').all(|part| part.contains(|c: char| c.is_ascii_lowercase()) || part.ends_with(".md"))
    };
    known.filter(named).map(str::to_owned).collect()
}

#[test]
fn files_that_are_named_are_there() {
    // Made by a build or by who follows the text.
    let made = ["traces/fuzz/corpus", "recorder/fuzz/corpus"];
    let mut gone = Vec::new();
    for document in documents() {
        for path in
            document.spans().iter().flat_map(|span| if span.contains(' ') { BTreeSet::new() } else { paths(span) })
        {
            // A crate's own files may be named as they are in it.
            let there = ["", "hv", "hv/kvm", "traces"].iter().any(|folder| root().join(folder).join(&path).exists());
            if !there && !made.contains(&path.as_str()) {
                gone.push(format!("{}: {path}", document.name));
            }
        }
    }
    // Help and messages send to documents too.
    let mut sources = Vec::new();
    for folder in ["analyzer", "cli", "hv", "recorder", "replayer", "traces", "tui"] {
        files(&root().join(folder), ".rs", &mut sources);
    }
    let mut sent = 0;
    for source in sources {
        let text = std::fs::read_to_string(&source).expect("text");
        for path in paths(&text).into_iter().filter(|path| path.starts_with("docs/") && path.ends_with(".md")) {
            sent += 1;
            if !root().join(&path).exists() {
                gone.push(format!("{}: {path}", source.display()));
            }
        }
    }
    assert!(sent > 20, "sources name {sent} documents");
    assert!(gone.is_empty(), "these are not there:\n{}", gone.join("\n"));
}

#[test]
fn the_index_has_every_document() {
    let all = documents();
    let index = all.iter().find(|document| document.name == "docs/README.md").expect("docs/README.md");
    let linked: BTreeSet<_> = index.links().into_iter().collect();
    for document in &all {
        if let Some(name) = document.name.strip_prefix("docs/").filter(|name| *name != "README.md") {
            assert!(linked.contains(name), "docs/README.md does not lead to {name}");
        }
    }
}

#[test]
fn command_lines_are_understood() {
    let mut lines: BTreeSet<(String, String)> = BTreeSet::new();
    for document in documents().iter().filter(|document| document.name != "CHANGELOG.md") {
        // In a table, a bar is written with a backslash.
        let lines_of =
            document.lines().into_iter().map(|line| line.split(" \\|").next().unwrap_or_default().to_owned());
        lines.extend(lines_of.map(|line| (line, document.name.clone())));
    }
    assert!(lines.len() > 150, "there are {} command lines", lines.len());
    let wrong: Vec<_> = lines
        .iter()
        .filter_map(|(line, name)| Some(format!("{name}: nvmx {line}\n{}", misunderstood(line).err()?)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_line_that_is_wrong_is_found() {
    let check = |line: &str, good: bool| assert_eq!(misunderstood(line).is_ok(), good, "{line}");
    check("record demo -o demo.nvmx", true);
    check("whatif FILE --policy P[,P…] [--pool N,…]", true);
    check("report --format flame", true);
    check("dump FILE --kind", true);
    check("record demo --no-such-option", false);
    check("no-such-command", false);
    check("report demo.nvmx --format no-such-format", false);
    check("replay demo.nvmx --policy no-such-policy", false);
    check("dump FILE --no-such-option", false);
    check("record demo --pool many", false);
}

#[test]
fn commands_in_a_text_are_found() {
    let check = |text: &str, lines: &[&str]| {
        let found: Vec<_> = Document::of("a.md", text).lines().into_iter().collect();
        assert_eq!(found, lines, "{text}");
    };
    check("```\n$ nvmx info a.nvmx\nnvmx: not a command\n```", &["info a.nvmx"]);
    check("```\nnvmx replay FILE --to 500      behind event 500\n```", &["replay FILE --to 500"]);
    check("```\nnvmx attach --live     # a picture\n```", &["attach --live"]);
    check("```\n$ for p in a b; do nvmx record demo --policy $p; done\n```", &["record demo --policy $p"]);
    check("```\n$ nvmx dump a.nvmx | head; nvmx info > b\n```", &["dump a.nvmx", "info"]);
    check("```\n$ nvmx query a 'SELECT 1;' --format \\\n    csv\n```", &["query a 'SELECT 1;' --format csv"]);
    check("so `nvmx tui\nFILE` and `nvmx` and `nvmx: no`", &["tui FILE"]);
    check("```\n$ sudo nvmx attach -o a.nvmx\ncargo run --release -- demo\n```", &["attach -o a.nvmx", "demo"]);
}
