import ca.uhn.fhir.batch2.api.IJobMaintenanceService;
import ca.uhn.fhir.batch2.jobs.config.Batch2JobsConfig;
import ca.uhn.fhir.batch2.jobs.export.BulkDataExportProvider;
import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.config.ThreadPoolFactoryConfig;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.batch2.JpaBatch2Config;
import ca.uhn.fhir.jpa.binary.api.IBinaryStorageSvc;
import ca.uhn.fhir.jpa.binstore.DatabaseBinaryContentStorageSvcImpl;
import ca.uhn.fhir.jpa.config.HapiJpaConfig;
import ca.uhn.fhir.jpa.config.r4.JpaR4Config;
import ca.uhn.fhir.jpa.config.util.HapiEntityManagerFactoryUtil;
import ca.uhn.fhir.jpa.model.config.PartitionSettings;
import ca.uhn.fhir.jpa.model.config.SubscriptionSettings;
import ca.uhn.fhir.jpa.model.dialect.HapiFhirH2Dialect;
import ca.uhn.fhir.jpa.provider.IJpaSystemProvider;
import ca.uhn.fhir.jpa.provider.JpaCapabilityStatementProvider;
import ca.uhn.fhir.jpa.search.DatabaseBackedPagingProvider;
import ca.uhn.fhir.jpa.subscription.channel.config.SubscriptionChannelConfig;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.provider.ResourceProviderFactory;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import jakarta.persistence.EntityManagerFactory;
import java.net.InetSocketAddress;
import java.util.Map;
import javax.sql.DataSource;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.h2.jdbcx.JdbcConnectionPool;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.context.ApplicationContext;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Import;
import org.springframework.context.annotation.Primary;
import org.springframework.orm.jpa.JpaTransactionManager;
import org.springframework.orm.jpa.LocalContainerEntityManagerFactoryBean;

/** A FHIR R4 server at http://127.0.0.1:PORT/fhir with its database in memory: HAPI's own parts, with its defaults. */
@Configuration
@Import({
    Batch2JobsConfig.class,
    HapiJpaConfig.class,
    JpaBatch2Config.class,
    JpaR4Config.class,
    SubscriptionChannelConfig.class,
    ThreadPoolFactoryConfig.class,
})
public class HapiServer {
    public static void main(String[] arguments) throws Exception {
        var parts = new AnnotationConfigApplicationContext(HapiServer.class);
        var context = new ServletContextHandler("/");
        context.addServlet(new ServletHolder(servlet(parts)), "/fhir/*");
        var server = new Server(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])));
        server.setHandler(context);
        server.start();
        var exports = new Thread(() -> moveOn(parts.getBean(IJobMaintenanceService.class)));
        exports.setDaemon(true);
        exports.start();
        server.join();
    }

    /** HAPI moves exports on by a step a minute; no test waits that long. */
    private static void moveOn(IJobMaintenanceService jobs) {
        while (true) {
            try {
                Thread.sleep(500);
                jobs.runMaintenancePass();
            } catch (InterruptedException end) {
                return;
            } catch (RuntimeException lost) {
                // Against HAPI's own pass: the next one moves on.
            }
        }
    }

    private static RestfulServer servlet(ApplicationContext parts) {
        var known = parts.getBean(ISearchParamRegistry.class);
        var settings = parts.getBean(JpaStorageSettings.class);
        var servlet = new RestfulServer(parts.getBean(FhirContext.class));
        servlet.registerProviders(parts.getBean(ResourceProviderFactory.class).createProviders());
        servlet.registerProvider(parts.getBean(IJpaSystemProvider.class));
        servlet.registerProvider(parts.getBean(BulkDataExportProvider.class));
        servlet.setServerConformanceProvider(new JpaCapabilityStatementProvider(
                servlet,
                parts.getBean(IFhirSystemDao.class),
                settings,
                known,
                parts.getBean(IValidationSupport.class)));
        var paging = parts.getBean(DatabaseBackedPagingProvider.class);
        paging.setDefaultPageSize(20);
        paging.setMaximumPageSize(500);
        servlet.setPagingProvider(paging);
        return servlet;
    }

    @Bean
    public JpaStorageSettings storage() {
        var settings = new JpaStorageSettings();
        // The tests' resources point to others that are not there.
        settings.setEnforceReferentialIntegrityOnWrite(false);
        settings.setEnforceReferentialIntegrityOnDelete(false);
        settings.setEnableTaskPreExpandValueSets(false);
        return settings;
    }

    @Bean
    public PartitionSettings partitions() {
        return new PartitionSettings();
    }

    @Bean
    public SubscriptionSettings subscriptions() {
        return new SubscriptionSettings();
    }

    @Bean
    public IBinaryStorageSvc binaries() {
        return new DatabaseBinaryContentStorageSvcImpl();
    }

    @Bean
    public DataSource database() {
        return JdbcConnectionPool.create("jdbc:h2:mem:fhir;DB_CLOSE_DELAY=-1", "sa", "");
    }

    @Bean
    @Primary
    public LocalContainerEntityManagerFactoryBean entityManagerFactory(
            ConfigurableListableBeanFactory parts, FhirContext fhir, JpaStorageSettings settings, DataSource database) {
        var made = HapiEntityManagerFactoryUtil.newEntityManagerFactory(parts, fhir, settings);
        made.setPersistenceUnitName("fhir");
        made.setDataSource(database);
        made.setJpaPropertyMap(Map.of(
                "hibernate.dialect", HapiFhirH2Dialect.class.getName(),
                "hibernate.hbm2ddl.auto", "create",
                "hibernate.search.enabled", "false"));
        return made;
    }

    @Bean
    @Primary
    public JpaTransactionManager transactionManager(EntityManagerFactory entities) {
        return new JpaTransactionManager(entities);
    }
}
