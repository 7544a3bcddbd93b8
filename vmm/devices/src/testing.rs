//! A guest's half of a virtqueue in ordinary memory.
