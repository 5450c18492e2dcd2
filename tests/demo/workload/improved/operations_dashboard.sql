SELECT perf.cached('operations_dashboard');
