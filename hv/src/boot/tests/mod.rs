//! Loaders, each on images made by hand.
