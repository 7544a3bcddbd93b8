//! ringfence's virtual machine monitor: one sandbox per process, and the ringfence-vmm binary.
