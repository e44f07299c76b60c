//! vcpu-devices.
