//! What the API server refuses when a Pod is created (Kubernetes' `core/validation`), in its words. Pure; changes nothing.
//!
//! - `names`: the shapes of names, labels and paths
//! - `metadata`, `annotations`, `spec`, `network`, `scheduling`, `windows`: the pod
//! - `container`, `env`, `probe`, `mount`: a container
//! - `volume`, `legacy`, `resources`, `security`: what they say

mod annotations;
mod container;
mod env;
mod legacy;
mod metadata;
mod mount;
mod names;
mod network;
mod probe;
mod resources;
mod scheduling;
mod security;
mod spec;
mod volume;
mod windows;

use std::fmt::{Debug, Display};

use k8s_openapi::api::core::v1::Pod;

/// Field path and message of everything that is wrong with a defaulted, fully named pod.
pub fn pod(pod: &Pod) -> Vec<(String, String)> {
    let mut wrong = Wrong(Vec::new());
    metadata::check(pod, &mut wrong);
    match &pod.spec {
        Some(spec) => spec::check(spec, &mut wrong),
        None => wrong.required("spec", ""),
    }
    wrong.0
}

/// What is wrong so far, in the words of apimachinery's `field.Error`.
struct Wrong(Vec<(String, String)>);

impl Wrong {
    fn add(&mut self, field: impl Into<String>, message: String) {
        // A hostile manifest may have a mistake in each of its values; nobody reads more than this.
        if self.0.len() < 100 {
            self.0.push((field.into(), message));
        }
    }

    fn required(&mut self, field: impl Into<String>, why: &str) {
        let colon = if why.is_empty() { "" } else { ": " };
        self.add(field, format!("Required value{colon}{why}"));
    }

    fn invalid(&mut self, field: impl Into<String>, value: impl Debug, why: impl Display) {
        self.add(field, format!("Invalid value: {value:?}: {why}"));
    }

    /// One complaint per reason why a text has the wrong shape.
    fn shape(&mut self, field: &str, value: &str, reasons: Vec<String>) {
        for why in reasons {
            self.invalid(field, value, why);
        }
    }

    fn forbidden(&mut self, field: impl Into<String>, why: &str) {
        self.add(field, format!("Forbidden: {why}"));
    }

    fn duplicate(&mut self, field: impl Into<String>, value: impl Debug) {
        self.add(field, format!("Duplicate value: {value:?}"));
    }

    fn not_found(&mut self, field: impl Into<String>, value: &str) {
        self.add(field, format!("Not found: {value:?}"));
    }

    fn too_many(&mut self, field: impl Into<String>, count: usize, most: usize) {
        self.add(field, format!("Too many: {count}: must have at most {most} items"));
    }

    /// The value must be one of a few words.
    fn one_of(&mut self, field: impl Into<String>, value: &str, words: &[&str]) {
        if !words.contains(&value) {
            let listed: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
            self.add(field, format!("Unsupported value: {value:?}: supported values: {}", listed.join(", ")));
        }
    }

    /// As `one_of`, where the field may be silent.
    fn maybe_one_of(&mut self, field: impl Into<String>, value: Option<&str>, words: &[&str]) {
        if let Some(value) = value {
            self.one_of(field, value, words);
        }
    }

    fn at_least(&mut self, field: impl Into<String>, value: Option<i64>, least: i64) {
        if let Some(v) = value.filter(|v| *v < least) {
            let bound = if least == 1 { "greater than 0".to_owned() } else { format!("greater than or equal to {least}") };
            self.invalid(field, v, format!("must be {bound}"));
        }
    }

    fn within(&mut self, field: impl Into<String>, value: i64, low: i64, high: i64) {
        if !(low..=high).contains(&value) {
            self.invalid(field, value, format!("must be between {low} and {high}, inclusive"));
        }
    }
}

/// The values of a list with their paths: `at.field[i]`.
fn each<'a, T>(at: &str, field: &str, items: Option<&'a Vec<T>>) -> impl Iterator<Item = (String, &'a T)> + use<'a, T> {
    let list = format!("{at}.{field}");
    items.into_iter().flatten().enumerate().map(move |(i, item)| (format!("{list}[{i}]"), item))
}

/// Whether a field that is no pointer in Go is silent.
fn blank(text: Option<&str>) -> bool {
    text.unwrap_or_default().is_empty()
}
