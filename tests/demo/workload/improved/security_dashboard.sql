SELECT perf.cached('security_dashboard');
