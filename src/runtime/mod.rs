//! containerd and this host: the only room that sees tonic or its types. Does what `plan` says and reports what is there.

pub mod paths;
