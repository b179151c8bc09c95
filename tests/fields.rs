//! The README's tables of fields against the API's own: none forgotten, none invented, each with a verdict, and a reason where it is not yes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSecurityContext, PodSpec, SecurityContext, Volume};
use serde::de::{Deserialize, Deserializer, Error, Visitor, value};

const README: &str = include_str!("../README.md");

/// Asked for a struct, it keeps the names of its fields.
struct Names(Vec<&'static str>);

impl<'de> Deserializer<'de> for &mut Names {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
        Err(value::Error::custom("only structs have fields"))
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: &'static [&'static str], _: V) -> Result<V::Value, value::Error> {
        self.0.extend(fields);
        Err(value::Error::custom("the names were all that was wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<T: for<'de> Deserialize<'de>>() -> BTreeSet<&'static str> {
    let mut names = Names(Vec::new());
    assert!(T::deserialize(&mut names).is_err() && !names.0.is_empty());
    names.0.into_iter().collect()
}

/// Field, verdict and reason of each row below that heading.
fn rows(heading: &str) -> Vec<(&'static str, &'static str, &'static str)> {
    let below = README.split_once(&format!("\n### {heading}\n")).unwrap_or_else(|| panic!("no table {heading}")).1;
    let table = below.trim_start().lines().take_while(|l| l.starts_with('|')).skip(2);
    let cells = |line: &'static str| {
        let mut cells = line.trim_matches('|').splitn(3, '|').map(str::trim);
        (cells.next().unwrap().trim_matches('`'), cells.next().unwrap(), cells.next().unwrap())
    };
    table.map(cells).collect()
}

#[test]
fn every_field_has_one_row() {
    let tables = [
        ("PodSpec", fields::<PodSpec>()),
        ("Container", fields::<Container>()),
        ("PodSecurityContext", fields::<PodSecurityContext>()),
        ("SecurityContext", fields::<SecurityContext>()),
        ("Volume", fields::<Volume>()),
    ];
    for (heading, want) in tables {
        let rows = rows(heading);
        let have: BTreeSet<&str> = rows.iter().map(|(field, ..)| *field).collect();
        assert_eq!(have, want, "{heading}");
        assert_eq!(rows.len(), want.len(), "{heading}: one row a field");
        for (field, verdict, why) in rows {
            assert!(["yes", "part", "idle", "no"].contains(&verdict), "{heading}.{field}: {verdict}");
            assert!(!matches!(verdict, "part" | "no") || !why.is_empty(), "{heading}.{field}: {verdict}, but why?");
        }
    }
}

/// What is said to be refused is, and what is said to be taken is: by the same check as everywhere.
#[test]
fn verdicts_are_those_of_check() {
    let dir = std::env::temp_dir().join(format!("plinth-fields-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let manifest = dir.join("pod.yaml");
    let check = |spec: &str| {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  {spec}\n");
        std::fs::write(&manifest, text).unwrap();
        std::process::Command::new(env!("CARGO_BIN_EXE_plinth")).arg("check").arg(&manifest).output().unwrap().status.code()
    };
    let main = "containers: [{name: c, image: x}]";
    for refused in [
        "ephemeralContainers: [{name: e, image: x}]",
        "imagePullSecrets: [{name: s}]",
        "resourceClaims: [{name: r, resourceClaimName: r}]",
        "schedulingGates: [{name: g}]",
        "serviceAccountName: s",
        "serviceAccount: s",
        "securityContext: {windowsOptions: {}}\n  os: {name: linux}",
        "volumes: [{name: v, configMap: {name: m}}]",
        "volumes: [{name: v, csi: {driver: d.example}}]",
        "volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}}]",
        "volumes: [{name: v, glusterfs: {endpoints: e, path: p}}]",
        "volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]",
        "volumes: [{name: v, secret: {secretName: s}}]",
        "volumes: [{name: v, azureFile: {secretName: s, shareName: s}}]",
        "volumes: [{name: v, projected: {sources: [{configMap: {name: m}}]}}]",
    ] {
        assert_eq!(check(&format!("{refused}\n  {main}")), Some(4), "{refused}");
    }
    for taken in [
        "hostUsers: false",
        "runtimeClassName: r",
        "shareProcessNamespace: true",
        "schedulerName: s",
        "volumes: [{name: v, nfs: {server: s, path: /p}}]",
    ] {
        assert_eq!(check(&format!("{taken}\n  {main}")), Some(0), "{taken}");
    }
    for refused in [
        "envFrom: [{secretRef: {name: s}}]",
        "env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]",
        "volumeDevices: [{name: v, devicePath: /dev/x}]",
    ] {
        assert_eq!(check(&format!("containers: [{{name: c, image: x, {refused}}}]")), Some(4), "{refused}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
