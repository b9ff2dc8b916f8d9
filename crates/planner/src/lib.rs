//! Demand and inventory in, placement or the reason why not out. Pure.
