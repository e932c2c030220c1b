"""DPG-Bench (Hu et al. 2024, ELLA): a network answers questions about what a long prompt says, one by one."""
