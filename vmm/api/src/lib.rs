//! What a launcher says to ringfence-vmm: configuration, requests, events, descriptors.
