//! What is promised under a network that breaks.
