package driver

// ccidIDs are the readers that C OpenCT's configuration gave to its ccid driver
// (etc/openct.conf there). Most would be found by their class as well; those with a
// vendor class would not.
func ccidIDs() []ID {
	const pcscName = "Generic CCID Reader"
	return []ID{
		{0x03F0, 0x1024, "HP Smart Card Keyboard", pcscName},
		{0x046A, 0x0010, "Cherry keyboard with reader", pcscName},
		{0x04E6, 0x0003, "SCM SPR532", pcscName},
		{0x04E6, 0x5115, "SCM SCR335", pcscName},
		{0x04E6, 0x5116, "SCM SCR3310", pcscName},
		{0x04E6, 0x5117, "SCM SCR3320", pcscName},
		{0x04E6, 0x511D, "SCM SCR3311", pcscName},
		{0x04E6, 0xE001, "SCM SCR331", pcscName},
		{0x04E6, 0xE003, "SCM SPR532", pcscName},
		{0x073D, 0x0C00, "Eutron Digipass 860", pcscName},
		{0x076B, 0x1021, "OmniKey CardMan 1021", pcscName},
		{0x076B, 0x3021, "OmniKey CardMan 3121", pcscName},
		{0x076B, 0x5121, "OmniKey CardMan 5121", pcscName},
		{0x076B, 0x5321, "OmniKey CardMan 5321", pcscName},
		{0x076B, 0x6622, "OmniKey CardMan 6121", pcscName},
		{0x0783, 0x0003, "C3PO LTC31", pcscName},
		{0x08E6, 0x3437, "Gemalto GemPC Twin", pcscName},
		{0x08E6, 0x3438, "Gemalto GemPC Key", pcscName},
		{0x08E6, 0x4433, "Gemalto GemPC433", pcscName},
		{0x0B97, 0x7762, "O2 Micro Oz776", pcscName},
		{0x0B97, 0x7772, "O2 Micro Oz776", pcscName},
		{0x0BF8, 0x1006, "Fujitsu Siemens reader", pcscName},
		{0x0DC3, 0x1004, "Athena ASEDrive IIIe", pcscName},
		{0x0A89, 0x0030, "Aktiv Rutoken ECP", pcscName},
	}
}
