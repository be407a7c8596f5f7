package apdulog

// classReader is the class of CT-BCS commands, which go to the reader and not to
// the card (MKT specification, part 4).
const classReader = 0x20

// instruction names what ISO/IEC 7816-4 and -8 define, for interindustry classes
// and for the proprietary ones that by custom keep the meaning.
func instruction(cla, ins byte) string {
	switch ins {
	case 0x0E, 0x0F:
		return "ERASE BINARY"
	case 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19:
		if cla == classReader {
			return readerInstruction(ins)
		}
	case 0x20, 0x21:
		return "VERIFY"
	case 0x22:
		return "MANAGE SECURITY ENVIRONMENT"
	case 0x24, 0x25:
		return "CHANGE REFERENCE DATA"
	case 0x26:
		return "DISABLE VERIFICATION REQUIREMENT"
	case 0x28:
		return "ENABLE VERIFICATION REQUIREMENT"
	case 0x2A, 0x2B:
		return "PERFORM SECURITY OPERATION"
	case 0x2C, 0x2D:
		return "RESET RETRY COUNTER"
	case 0x44:
		return "ACTIVATE FILE"
	case 0x46, 0x47:
		return "GENERATE ASYMMETRIC KEY PAIR"
	case 0x70:
		return "MANAGE CHANNEL"
	case 0x82:
		return "EXTERNAL AUTHENTICATE"
	case 0x84:
		return "GET CHALLENGE"
	case 0x86, 0x87:
		return "GENERAL AUTHENTICATE"
	case 0x88:
		return "INTERNAL AUTHENTICATE"
	case 0xA4:
		return "SELECT"
	case 0xB0, 0xB1:
		return "READ BINARY"
	case 0xB2, 0xB3:
		return "READ RECORD"
	case 0xC0:
		return "GET RESPONSE"
	case 0xC2, 0xC3:
		return "ENVELOPE"
	case 0xCA, 0xCB:
		return "GET DATA"
	case 0xD0, 0xD1:
		return "WRITE BINARY"
	case 0xD2:
		return "WRITE RECORD"
	case 0xD6, 0xD7:
		return "UPDATE BINARY"
	case 0xDA, 0xDB:
		return "PUT DATA"
	case 0xDC, 0xDD:
		return "UPDATE RECORD"
	case 0xE0:
		return "CREATE FILE"
	case 0xE2:
		return "APPEND RECORD"
	case 0xE4:
		return "DELETE FILE"
	}
	return ""
}

func readerInstruction(ins byte) string {
	switch ins {
	case 0x11:
		return "RESET CT"
	case 0x12:
		return "REQUEST ICC"
	case 0x13:
		return "GET STATUS"
	case 0x15:
		return "EJECT ICC"
	case 0x16:
		return "INPUT"
	case 0x17:
		return "OUTPUT"
	case 0x18:
		return "PERFORM VERIFICATION"
	case 0x19:
		return "MODIFY VERIFICATION DATA"
	}
	return ""
}

// carriesPIN says whether a command is about a PIN by its name. It is no list of
// what to hide, all bodies are hidden: it only forbids to take the bytes behind the
// instruction for parameters and the one behind the header for a length.
func carriesPIN(cla, ins byte) bool {
	switch ins {
	case 0x20, 0x21, 0x24, 0x25, 0x26, 0x28, 0x2C, 0x2D:
		return true
	case 0x18, 0x19:
		return cla == classReader
	}
	return false
}
