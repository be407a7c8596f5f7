package doctor

import "openct/internal/status"

// released looks whether the device at a node is released.
func (o Options) released(node string) *status.Released {
	if r, is := status.ReleasedAt(o.Dir, o.Root.Path(node)); is {
		return &r
	}
	return nil
}

// checkReleased replaces all other checks of a released device: that no handler serves it
// is no error.
func checkReleased(r *status.Released) []Finding {
	return fine("%s is released since %s; to serve it again: openct-control take %d", r.Device, r.Time.Local().Format("2006-01-02 15:04"), r.Reader)
}
