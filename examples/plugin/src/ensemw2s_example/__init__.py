"""One of everything that a package can add to ensemw2s: a method, a rule, a loss, a selection, data, a tracker."""
