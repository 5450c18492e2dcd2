SELECT perf.cached('system_health');
