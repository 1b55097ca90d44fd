"""What everything else stands on: values, contracts, errors, files. numpy only, no torch."""
