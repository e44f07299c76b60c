//! Who decides.

use ::supervisor::core::faults::Process;
use faults::campaign::campaign;

#[test]
fn faults_of_the_supervisor_end_as_the_table_says() {
    campaign(Process::Supervisor);
}
