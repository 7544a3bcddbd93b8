//! End-to-end tests of ringfence.
