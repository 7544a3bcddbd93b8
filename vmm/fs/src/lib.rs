//! A FUSE server over directory descriptors, the back end of ringfence's virtio-fs.
