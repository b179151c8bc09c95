//! What go-yaml v2 refuses and the parser, of a later YAML, takes: tabs where indentation is expected, escapes and line ends that only
//! one of them knows, and `?` within brackets.

use granit_parser::{Event, ScalarStyle, Span, StructureStyle};

use super::caps::Fault;
use super::tree::place_of;
use crate::manifest::value::short;

/// Looks at each event of a document, and at the text between it and the one before.
pub struct Older<'a> {
    text: &'a str,
    /// Where characters stand that end a line in YAML 1.1 only, the last one first.
    breaks: Vec<usize>,
    /// Open collections in brackets or braces, and those within them.
    flow: usize,
    /// Where the event before ended.
    end: usize,
    /// It was a scalar of this style.
    scalar: Option<ScalarStyle>,
}

impl<'a> Older<'a> {
    pub fn new(text: &'a str) -> Self {
        // By their first bytes: a text is large and seldom has one.
        let begins = memchr::memchr2_iter(0xc2, 0xe2, text.as_bytes());
        let is_break = |at: &usize| matches!(char_at(text, *at), Some('\u{85}' | '\u{2028}' | '\u{2029}'));
        let mut breaks: Vec<usize> = begins.filter(is_break).collect();
        breaks.reverse();
        Older { text, breaks, flow: 0, end: 0, scalar: None }
    }

    /// A document was given up: the next one begins outside of everything.
    pub fn reset(&mut self) {
        self.flow = 0;
    }

    pub fn check(&mut self, event: &Event<'_>, span: &Span) -> Result<(), Fault> {
        let (Some(start), Some(end)) = (span.start.byte_offset(), span.end.byte_offset()) else { return Ok(()) };
        let fault = |message: String| Err(Fault { message, place: place_of(&span.start) });
        let gap = self.text.get(self.end..start).unwrap_or_default();
        let within = self.text.get(start..end).unwrap_or_default();
        if let Some(at) = self.breaks.pop_if(|at| *at < start) {
            return fault(format!("YAML: {} before this ends a line for Kubernetes: write it in double quotes", self.escaped(at)));
        }
        let tabs = self.flow == 0 && (self.blank_tab(gap) || self.tab_before(event, start));
        let (opens, closes) = match event {
            Event::SequenceStart(style, ..) | Event::MappingStart(style, ..) => (self.flow > 0 || *style == StructureStyle::Flow, false),
            Event::SequenceEnd | Event::MappingEnd => (false, self.flow > 0),
            _ => (false, false),
        };
        self.flow = self.flow + usize::from(opens) - usize::from(closes);
        self.end = self.end.max(end);
        self.scalar = if let Event::Scalar(_, style, ..) = event { Some(*style) } else { None };
        if tabs {
            return fault("YAML: a tab before what begins a line: indent with spaces".into());
        }
        match self.scalar {
            Some(ScalarStyle::DoubleQuoted) if has_escape(within, b'/') => {
                return fault(format!("YAML: `\\/` in {}: Kubernetes knows no such escape: write / alone", short(within)));
            }
            Some(ScalarStyle::Plain) if self.flow > 0 && within.contains('?') => {
                return fault(format!("YAML: `?` in {} ends the text within brackets: write it in quotes", short(within)));
            }
            _ => {}
        }
        let quoted = matches!(self.scalar, Some(ScalarStyle::DoubleQuoted | ScalarStyle::SingleQuoted));
        while let Some(at) = self.breaks.pop_if(|at| *at < end && self.scalar.is_some()) {
            if !quoted {
                return fault(format!("YAML: {} ends a line for Kubernetes: write it in double quotes", self.escaped(at)));
            }
        }
        Ok(())
    }

    fn escaped(&self, at: usize) -> String {
        let c = self.text.get(at..).and_then(|rest| rest.chars().next()).unwrap_or_default();
        format!("`\\u{:04x}`", u32::from(c))
    }

    /// Whether a line without a value is indented by a tab. Spaces and then tabs may follow a plain text, which might go on.
    fn blank_tab(&self, gap: &str) -> bool {
        let plain = matches!(self.scalar, Some(ScalarStyle::Plain));
        let block = matches!(self.scalar, Some(ScalarStyle::Literal | ScalarStyle::Folded));
        let Some((_, rest)) = gap.split_once('\n') else { return false };
        let Some((whole, _)) = rest.rsplit_once('\n') else { return false };
        let mut indents = whole.split('\n').map(|line| line.split(|c| c != ' ' && c != '\t').next().unwrap_or_default());
        !block && indents.any(|indent| if plain { indent.starts_with('\t') } else { indent.contains('\t') })
    }

    /// Whether a tab stands before what begins a line, or between it and the dashes before it.
    fn tab_before(&self, event: &Event<'_>, start: usize) -> bool {
        let begins = matches!(
            event,
            Event::SequenceStart(..)
                | Event::MappingStart(..)
                | Event::SequenceEnd
                | Event::MappingEnd
                | Event::Scalar(..)
                | Event::Alias(..)
        );
        let before = self.text.get(..start).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        begins && line.contains('\t') && !line.starts_with("---") && line.trim_matches([' ', '\t', '-', '?']).is_empty()
    }
}

/// The character that begins there.
pub fn char_at(text: &str, at: usize) -> Option<char> {
    text.get(at..)?.chars().next()
}

/// Whether a quoted text escapes such a character.
fn has_escape(quoted: &str, escaped: u8) -> bool {
    let mut bytes = quoted.bytes();
    while let Some(b) = bytes.next() {
        if b == b'\\' && bytes.next() == Some(escaped) {
            return true;
        }
    }
    false
}
