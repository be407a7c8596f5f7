package ccid

import (
	"testing"

	"openct/internal/usb"
)

func TestTitle(t *testing.T) {
	for _, tt := range []struct{ name, maker, model, want string }{
		{"both", "Gemalto", "PC Twin Reader", "Gemalto PC Twin Reader"},
		{"model alone", "", "SCR33x USB Smart Card Reader", "SCR33x USB Smart Card Reader"},
		{"model begins with the maker", "OMNIKEY", "OMNIKEY AG CardMan 3121", "OMNIKEY AG CardMan 3121"},
		{"maker alone", "QEMU", "", "CCID Compatible"},
		{"nothing", "", " ", "CCID Compatible"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := title(&usb.Descriptor{Manufacturer: tt.maker, ProductString: tt.model}, "CCID Compatible"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
