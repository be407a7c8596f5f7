package pcmcia

import "testing"

// Numbers by linux/cm4000_cs.h as of Linux 6.3.
func TestCodes(t *testing.T) {
	for _, tt := range []struct {
		name            string
		r               Request
		on64, on32, old uint32
	}{
		{"CM_IOCGSTATUS", Request{Read, 'c', 0, true}, 0x80086300, 0x80046300, 0x40046300},
		{"CM_IOCGATR", Request{ReadWrite, 'c', 1, true}, 0xC0086301, 0xC0046301, 0xC0046301},
		{"CM_IOCSPTS", Request{Write, 'c', 2, true}, 0x40086302, 0x40046302, 0x80046302},
		{"CM_IOCARDOFF", Request{None, 'c', 4, false}, 0x00006304, 0x00006304, 0x20006304},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, c := range []struct {
				pointer uint32
				old     bool
				want    uint32
			}{{8, false, tt.on64}, {4, false, tt.on32}, {4, true, tt.old}} {
				if got := tt.r.codeOn(c.pointer, c.old); got != c.want {
					t.Errorf("pointers of %d bytes, old %v: %08x, want %08x", c.pointer, c.old, got, c.want)
				}
			}
		})
	}
}
