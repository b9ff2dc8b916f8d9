//! Hosts as network namespaces, real guests, workloads, faults and figures.
