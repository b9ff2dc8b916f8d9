//! One per host: carries out the coordinator's orders.
