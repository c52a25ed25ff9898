"""When everything is due: values over time, arrivals, and a stage made of them."""
