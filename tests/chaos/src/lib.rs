//! What the tests of sudden ends need beside the rig.
