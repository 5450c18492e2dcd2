SELECT perf.cached('executive_dashboard');
