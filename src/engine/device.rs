//! The adapters of this machine.

use std::collections::BTreeMap;

/// What is known of an adapter.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DeviceInfo {
    /// Its place in the list, which `--device` takes.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The interface through which it is driven.
    pub backend: String,
    /// Its driver.
    pub driver: String,
    /// Its memory, where that can be found out.
    pub memory_bytes: Option<u64>,
    /// The smallest subgroup.
    pub subgroup_min: u32,
    /// The largest subgroup.
    pub subgroup_max: u32,
    /// Optional features.
    pub features: BTreeMap<&'static str, bool>,
    /// The one that `--device auto` takes.
    pub auto: bool,
}

/// Every adapter.
pub fn list() -> Vec<DeviceInfo> {
    Vec::new()
}
