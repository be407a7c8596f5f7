package driver

import "testing"

// PC/SC programs have the names of C OpenCT's Info.plist in their settings
// ("ifdFriendlyName", etc/Info.plist there).
func TestPCSCNames(t *testing.T) {
	tests := []struct {
		vendor, product uint16
		want            string
	}{
		{0x0973, 0x0001, "Axalto/Schlumberger/Gemalo egate token"},
		{0x0529, 0x050C, "Aladdin eToken PRO"},
		{0x0529, 0x0514, "Aladdin eToken PRO"},
		{0x0529, 0x0600, "Aladdin eToken PRO 64"},
		{0x0529, 0x0700, "Aladdin eToken PRO NG OTP"},
		{0x073D, 0x0005, "Eutron CryptoIdendity"},
		{0x04B9, 0x1202, "Rainbow iKey 2000"},
		{0x04B9, 0x1300, "Rainbow iKey 3000"},
		{0x096E, 0x0005, "G&D Starkey 100"},
		{0x0A89, 0x0020, "Aktiv Rutoken S"},
		{0x0A89, 0x0012, "Aktiv uaToken S"},
		{0x04E6, 0x0003, "Generic CCID Reader"}, // by its id: its class is the vendor's
		{0x04E6, 0xE003, "Generic CCID Reader"},
	}
	for _, tt := range tests {
		e, ok := ByID(tt.vendor, tt.product)
		if !ok {
			t.Errorf("%04x:%04x is not in the table", tt.vendor, tt.product)
			continue
		}
		for _, id := range e.IDs {
			if id.Vendor == tt.vendor && id.Product == tt.product && id.PCSC != tt.want {
				t.Errorf("%04x:%04x is %q in PC/SC, want %q", tt.vendor, tt.product, id.PCSC, tt.want)
			}
		}
	}
}
