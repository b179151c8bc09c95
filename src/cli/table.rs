//! The one table of verbs, operands and flags. Usage texts, completions and man pages are all made from it, and the
//! verbs that talk to the socket read their arguments by it: what is not here does not exist.

use super::{attach, check, completions, events, exec, logs, man, render, run, shutdown, status, version, why};

/// What a flag wants after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// A value, called so in the help.
    Value(&'static str),
    /// A value or none (`--wait`, `--wait=30s`), called so; without one, the second.
    Maybe(&'static str, &'static str),
}

/// What a shell can offer for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Nothing.
    Nothing,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A file.
    File,
    /// A directory.
    Dir,
    /// A pod, asked of the socket.
    Pod,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without the dashes.
    pub long: &'static str,
    /// Its one-letter form.
    pub short: Option<char>,
    /// What it wants.
    pub takes: Takes,
    /// What a shell offers for that.
    pub offer: Offer,
    /// May be given more than once.
    pub repeat: bool,
    /// One clause, no full stop.
    pub help: &'static str,
}

/// How often an operand comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Count {
    One,
    Maybe,
    Many,
}

/// One operand.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// As the usage line calls it.
    pub name: &'static str,
    /// How often.
    pub count: Count,
    /// What a shell offers.
    pub offer: Offer,
}

/// One verb.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// One clause, no full stop.
    pub summary: &'static str,
    /// Its operands.
    pub operands: &'static [Operand],
    /// Its flags; `--help` goes without saying.
    pub flags: &'static [Flag],
    /// Paragraphs of its page.
    pub text: &'static [&'static str],
    /// Command and what it does.
    pub examples: &'static [(&'static str, &'static str)],
    /// Does it, and says how it went (see [`EXITS`]).
    pub run: fn(&[String]) -> u8,
}

/// Exit statuses, the same for every verb.
pub const EXITS: [(u8, &str); 5] = [
    (0, "It was done."),
    (1, "It failed: standard error says what, on what, why, and what to do next."),
    (2, "The command line is wrong."),
    (3, "Not ready, or not there."),
    (4, "A manifest is invalid."),
];

/// Environment variables.
pub const ENVIRONMENT: [(&str, &str); 2] = [
    ("PLINTH_SOCKET", "The status socket, where --socket is not given; that of the settings where neither is."),
    ("NO_COLOR", "Not empty: no colour, on a terminal either."),
];

/// `--help`, which every verb has.
pub const HELP: Flag =
    Flag { long: "help", short: Some('h'), takes: Takes::Nothing, offer: Offer::Nothing, repeat: false, help: "print this help" };

const fn flag(long: &'static str, takes: Takes, help: &'static str) -> Flag {
    Flag { long, short: None, takes, offer: Offer::Nothing, repeat: false, help }
}

const fn short(letter: char, flag: Flag) -> Flag {
    Flag { short: Some(letter), ..flag }
}

const fn repeated(flag: Flag) -> Flag {
    Flag { repeat: true, ..flag }
}

const fn output(words: &'static [&'static str], help: &'static str) -> Flag {
    Flag { offer: Offer::Words(words), ..short('o', flag("output", Takes::Value("FORMAT"), help)) }
}

const SOCKET: Flag = Flag { offer: Offer::File, ..flag("socket", Takes::Value("PATH"), "status socket to ask") };
const CONTAINER: Flag = short('c', flag("container", Takes::Value("NAME"), "container; the pod's first when not given"));
const STDIN: Flag = short('i', flag("stdin", Takes::Nothing, "pass standard input on"));
const MAYBE_POD: Operand = Operand { name: "POD", count: Count::Maybe, offer: Offer::Pod };
const POD: Operand = Operand { name: "POD", count: Count::One, offer: Offer::Pod };
const POD_TEXT: &str = "POD is a name or namespace/name, with or without the node suffix.";

/// Every verb, in the order of the help.
pub const VERBS: &[Verb] = &[
    Verb {
        name: "run",
        summary: "run the supervisor",
        operands: &[],
        flags: &[
            repeated(Flag {
                offer: Offer::Dir,
                ..flag("manifests", Takes::Value("DIR"), "a manifest layer, lowest first; replaces the usual three")
            }),
            repeated(Flag { offer: Offer::File, ..flag("config", Takes::Value("FILE|DIR"), "settings; replaces the usual places") }),
            repeated(flag("set", Takes::Value("KEY=VALUE"), "any setting, by its name in /etc/plinth/config.yaml")),
            flag("node-name", Takes::Value("NAME"), "suffix of pod names; the host's name when not given"),
            repeated(flag("node-ip", Takes::Value("IP"), "address of the node, primary first; that of the default route when not given")),
            Flag {
                offer: Offer::File,
                ..flag("container-runtime-endpoint", Takes::Value("URL"), "containerd's socket, as a path or unix:// URL")
            },
            Flag { offer: Offer::Dir, ..flag("data-dir", Takes::Value("DIR"), "what must survive a reboot") },
            Flag { offer: Offer::Dir, ..flag("run-dir", Takes::Value("DIR"), "what must not") },
            Flag { offer: Offer::File, ..flag("socket", Takes::Value("PATH"), "status socket to serve") },
            flag("socket-group", Takes::Value("GROUP"), "group that may read it"),
            Flag { offer: Offer::Words(&["error", "warn", "info", "debug"]), ..flag("log-level", Takes::Value("LEVEL"), "what is logged") },
            Flag { offer: Offer::Words(&["stderr", "kmsg"]), ..flag("log-target", Takes::Value("WHERE"), "where to") },
            Flag {
                offer: Offer::Dir,
                ..flag("pod-manifest-path", Takes::Value("DIR"), "as the kubelet's: one layer instead of the three")
            },
            flag("hostname-override", Takes::Value("NAME"), "as the kubelet's: --node-name"),
        ],
        text: &[
            "Reads manifests from the layers /usr/lib/plinth/manifests, /run/plinth/manifests and /etc/plinth/manifests, and keeps their pods running. \
             SIGTERM ends it and leaves the pods running: the next start adopts them. SIGHUP reads the layers again. plinth shutdown stops the pods.",
            "Settings come from /usr/lib/plinth/config.yaml, /etc/plinth/config.yaml and the config.d directories beside them (KubeletConfiguration and \
             PlinthConfiguration), then flags, then plinth.KEY=VALUE words of the kernel command line; the later wins. Every KEY is a flag, too: dataDir is \
             --data-dir. What is wrong with any of it ends the start; but where a file of /usr/lib/plinth is right, a file of these places that is not is \
             left out as a whole, and the log and plinth status say so for as long as it runs.",
        ],
        examples: &[(
            "plinth run --manifests /usr/lib/plinth/manifests --manifests /etc/plinth/manifests",
            "two layers, the second over the first",
        )],
        run: run::run,
    },
    Verb {
        name: "status",
        summary: "show pods, and manifests that need attention",
        operands: &[MAYBE_POD],
        flags: &[
            output(&["wide", "json", "yaml", "name"], "wide, json, yaml or name"),
            short('w', flag("watch", Takes::Nothing, "go on, with a line for each change")),
            flag("wait", Takes::Maybe("TIME", "30s"), "wait until all pods (or POD) are ready, and for the socket"),
            SOCKET,
        ],
        text: &[
            "One line a pod, in the words of kubectl get pods, then each manifest that was refused, is not what runs, or was accepted with a warning.",
            POD_TEXT,
            "With -o json or yaml, POD is shown as a v1 Pod; without POD, the whole as kind Status of plinth.dev/v1alpha1.",
            "A pod counts as ready when its Ready condition is true or it has Succeeded. With POD or --wait, the exit status is 3 when it is \
             (or they are) not; with --wait, 4 when all are ready but a manifest is refused.",
        ],
        examples: &[
            ("plinth status", "every pod"),
            ("plinth status --wait=2m && echo up", "wait for the node to be up"),
            ("plinth status -o json web | jq .status.podIP", "one pod's address"),
        ],
        run: status::run,
    },
    Verb {
        name: "logs",
        summary: "print a container's log",
        operands: &[POD],
        flags: &[
            CONTAINER,
            short('f', flag("follow", Takes::Nothing, "go on until the container ends")),
            short('p', flag("previous", Takes::Nothing, "of the run before the last restart")),
            flag("tail", Takes::Value("N"), "only the last N lines"),
            flag("since", Takes::Value("TIME"), "only newer than a duration (5m) or a moment (RFC 3339)"),
            flag("timestamps", Takes::Nothing, "begin each line with its time"),
            flag("limit-bytes", Takes::Value("N"), "at most N bytes"),
            SOCKET,
        ],
        text: &[POD_TEXT, "Rotated files that are still kept are read, too."],
        examples: &[("plinth logs -f --tail 20 web", "the last lines, and what follows"), ("plinth logs -p web", "why it crashed")],
        run: logs::run,
    },
    Verb {
        name: "exec",
        summary: "run a command in a container",
        operands: &[POD, Operand { name: "CMD", count: Count::Many, offer: Offer::Nothing }],
        flags: &[CONTAINER, STDIN, short('t', flag("tty", Takes::Nothing, "on a terminal, like this one")), SOCKET],
        text: &[
            "Only uid 0 may. The command runs as the container's own process does: its user, environment and directory. Write -- before a command \
             that has flags.",
            POD_TEXT,
            "Signals are passed on, and the exit status is the command's; where it could not be run it is 1, 2 or 3, and standard error says why. \
             When this client goes, the command is ended.",
        ],
        examples: &[
            ("plinth exec -it web -- sh", "a shell"),
            ("plinth exec web -- cat /etc/hosts", "one command"),
            ("plinth exec -i db -- psql < dump.sql", "with input"),
        ],
        run: exec::run,
    },
    Verb {
        name: "attach",
        summary: "see what a container writes from now on, and type into it",
        operands: &[POD],
        flags: &[CONTAINER, STDIN, SOCKET],
        text: &[
            "Only uid 0 may. With -i, the manifest must set `stdin: true`; where it sets `tty: true`, this terminal is the container's. Leaving lets the \
             container run on; with `stdinOnce: true` its input ends.",
            POD_TEXT,
        ],
        examples: &[("plinth attach -i shell", "the terminal of a pod with stdin and tty")],
        run: attach::run,
    },
    Verb {
        name: "events",
        summary: "show what happened to pods and to the node, newest last",
        operands: &[MAYBE_POD],
        flags: &[
            short('f', flag("follow", Takes::Nothing, "go on with each new event")),
            output(&["json", "yaml"], "json (with -f one v1 Event a line) or yaml"),
            SOCKET,
        ],
        text: &[
            "Events are kept in memory, the last thousand; they are those of the kubelet where it has them. The node's own say that the machine was out of \
             memory (SystemOOM), that images or dead containers could not be removed (FreeDiskSpaceFailed, ImageGCFailed, InvalidDiskCapacity, \
             ContainerGCFailed), and that everything is being stopped (Shutdown).",
            POD_TEXT,
        ],
        examples: &[("plinth events web", "one pod's"), ("plinth events -f", "all, as they come")],
        run: events::run,
    },
    Verb {
        name: "why",
        summary: "explain a pod: its file, the last decision, what it waits for",
        operands: &[POD],
        flags: &[output(&["json", "yaml"], "json or yaml (kind Why of plinth.dev/v1alpha1)"), SOCKET],
        text: &[
            "The file and layer that won, and what it overrides or masks; the last decision and its reason; what the pod waits for and when the next try is due.",
            POD_TEXT,
        ],
        examples: &[("plinth why web", "why web is as it is")],
        run: why::run,
    },
    Verb {
        name: "check",
        summary: "check manifests offline, by the same code as run",
        operands: &[Operand { name: "FILE|DIR", count: Count::Many, offer: Offer::File }],
        flags: &[
            flag("node-name", Takes::Value("NAME"), "node to check for; the host's name when not given"),
            flag("strict", Takes::Nothing, "fail on warnings, too"),
            output(&["json"], "json (kind CheckReport of plinth.dev/v1alpha1)"),
        ],
        text: &[
            "For image builds and CI. A FILE is read whatever its extension; of a DIR, what run would read, and what run makes of it as its only \
             layer: an empty file is a mask, and of two pods of one name the first is taken.",
        ],
        examples: &[("plinth check --strict /usr/lib/plinth/manifests", "a layer, before it is sealed")],
        run: check::run,
    },
    Verb {
        name: "render",
        summary: "print the OCI runtime spec of each container, offline",
        operands: &[Operand { name: "FILE", count: Count::One, offer: Offer::File }],
        flags: &[
            flag("node-name", Takes::Value("NAME"), "node to render for; the host's name when not given"),
            flag("node-ip", Takes::Value("IP"), "its address"),
            Flag {
                repeat: true,
                offer: Offer::File,
                ..flag("image-config", Takes::Value("REF=FILE"), "the OCI image configuration of an image")
            },
        ],
        text: &["Prints kind RenderReport of plinth.dev/v1alpha1."],
        examples: &[("plinth render --image-config nginx=nginx.json web.yaml", "what would run, where, as whom")],
        run: render::run,
    },
    Verb {
        name: "shutdown",
        summary: "stop all pods in order, critical ones last, then end the supervisor",
        operands: &[],
        flags: &[
            flag("grace", Takes::Value("TIME"), "time for all of it; shutdownGracePeriod when not given"),
            flag("no-wait", Takes::Nothing, "return once it has begun"),
            SOCKET,
        ],
        text: &["Only uid 0 may. Waits until the supervisor has ended; interrupted, the shutdown goes on."],
        examples: &[("plinth shutdown --grace 1m", "with a minute for all of it")],
        run: shutdown::run,
    },
    Verb {
        name: "version",
        summary: "print the version",
        operands: &[],
        flags: &[output(&["json", "yaml"], "json or yaml (kind Version of plinth.dev/v1alpha1)")],
        text: &[],
        examples: &[],
        run: version::run,
    },
    Verb {
        name: "completions",
        summary: "print the completions of a shell",
        operands: &[Operand { name: "bash|zsh|fish", count: Count::One, offer: Offer::Words(&["bash", "zsh", "fish"]) }],
        flags: &[],
        text: &[],
        examples: &[("plinth completions bash > /usr/share/bash-completion/completions/plinth", "for bash, for everybody")],
        run: completions::run,
    },
    Verb {
        name: "man",
        summary: "print the man page, or write all of them",
        operands: &[Operand { name: "DIR", count: Count::Maybe, offer: Offer::Dir }],
        flags: &[],
        text: &["Without DIR, plinth(1) goes to standard output; with it, plinth.1 and one page a verb are written there."],
        examples: &[("plinth man | man -l -", "read it"), ("plinth man /usr/share/man/man1", "install them")],
        run: man::run,
    },
];

/// The verb of that name.
pub fn verb(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|v| v.name == name)
}
