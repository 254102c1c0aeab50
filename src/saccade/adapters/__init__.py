"""Parts of saccade in the forms that other tools take."""
